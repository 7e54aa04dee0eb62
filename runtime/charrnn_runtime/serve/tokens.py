"""POST /tokenize and /detokenize, GET /tokenizer_info: convert between text and ids."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from charrnn_runtime.serve.api_errors import ApiError, json_response
from charrnn_runtime.serve.bodies import Fields, read_object
from charrnn_runtime.serve.choices import token_name
from charrnn_runtime.serve.completion_request import prompt_ids
from charrnn_runtime.serve.service import service_of


async def tokenize(request: Request) -> Response:
    """Convert text to ids."""
    service = service_of(request)
    service.check_open()
    fields = Fields(await read_object(request, service.settings.max_body))
    served = service.find(fields.text("model"))
    text = fields.text("prompt")
    if text is None:
        raise ApiError(400, "prompt is missing: give the text to tokenize", "prompt")
    fields.neutral("add_special_tokens", True, False)  # there are no special tokens
    names = fields.switch("return_token_strs")
    fields.end()
    vocabulary = served.model.vocabulary
    ids = prompt_ids(text, vocabulary, service.settings, None).tolist()
    said: dict[str, object] = {
        "count": len(ids),
        "max_model_len": service.settings.max_prompt,
        "tokens": ids,
    }
    if names:
        said["token_strs"] = [token_name(vocabulary, each) for each in ids]
    return json_response(said)


async def detokenize(request: Request) -> Response:
    """Convert ids to text."""
    service = service_of(request)
    service.check_open()
    fields = Fields(await read_object(request, service.settings.max_body))
    served = service.find(fields.text("model"))
    tokens = fields.take("tokens")
    fields.end()
    if not isinstance(tokens, list):
        raise ApiError(400, "tokens must be a list of ids", "tokens")
    vocabulary = served.model.vocabulary
    text = ""
    if tokens:
        text = vocabulary.decode(prompt_ids(tokens, vocabulary, service.settings, None, "tokens"))
    return json_response({"prompt": text})


async def tokenizer_info(request: Request) -> Response:
    """Describe a model's vocabulary, in vLLM's format."""
    service = service_of(request)
    served = service.find(request.query_params.get("model"))
    info = served.model.info
    return json_response(
        {
            "tokenizer_class": "charrnn",
            "model_max_length": service.settings.max_prompt,
            "vocab_size": len(info.vocabulary),
            "level": info.vocabulary.level,
            # Every stream without a prompt reads this token first; no token ends a text.
            "bos_token": token_name(info.vocabulary, info.start_token),
            "bos_token_id": info.start_token,
            "eos_token": None,
            "eos_token_id": None,
            "pad_token": None,
            "chat_template": None,
        }
    )
