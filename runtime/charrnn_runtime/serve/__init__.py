"""An HTTP server for models, compatible with OpenAI's completions API; requires the extra ``serve``."""
