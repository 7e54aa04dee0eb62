"""An HTTP server for models, compatible with OpenAI's API of completions; it needs the extra ``serve``."""
