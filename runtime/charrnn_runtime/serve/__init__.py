"""An HTTP server for models, compatible with OpenAI's completions API; it needs the extra ``serve``."""
