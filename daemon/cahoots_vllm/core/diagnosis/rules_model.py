"""The rows for what is asked for: the hub, the weights, the options. First match wins.

A file behind a row is the wording's source (vLLM 0.32, transformers 5.19, huggingface_hub 2.4).
"""

from cahoots_vllm.core.diagnosis.causes import Cause
from cahoots_vllm.core.diagnosis.rule import Rule, rule

_ACCESS = (
    "put a token that may read the model into HUGGINGFACE_API_KEY in .env, and accept the model's "
    "licence on its page with that account"
)
_NAME = "check the model's name or path in LOCAL_LLM_MODEL and the profile, and its revision"
_NETWORK = (
    "check the network, the proxy and the hub's status; a model that is complete on disk needs no "
    "hub"
)
_OPTION = "correct the option or the model in .env, the profile or cahoots-vllm.toml"
_FETCH = (
    "delete the damaged or missing weight file and fetch it again; check the disk's space first"
)
_SUPPORT = "choose another model or quantization, or an engine version that knows this one"

# The client libraries of the hub, by exception name or frame.
_HUB_FRAMES = r"huggingface_hub|utils/hub|hub\.py:|file_download\.py:|_http\.py:|weight_utils\.py:"
# Reading a weight file's head or body.
_WEIGHT_FRAMES = (
    r"safetensors|:load_weights|weight_loader|:get_?_?safetensors|default_loader\.py:"
    r"|weight_utils\.py:|:pt_weights_iterator|serialization\.py:|:parse_safetensors_file_metadata"
)
# Making the configuration, before any GPU work.
_CONFIG_FRAMES = (
    r":create_engine_config|:create_model_config|:create_speculative_config|:from_engine_args"
    r"|:parse_args|:from_cli_args|:validate_parsed_serve_args|:validate_api_server_args"
    r"|:__post_init__|:init_app_state|:build_app|config\.py:verify|:get_config\b|:_verify_|:verify_with"
    r"|:resolve_model_cls|:get_rope|:get_quant_config|:get_quantization_config|:from_config"
    r"|:get_attn_backend|:get_model_architecture|:load_config_file|:get_tokenizer"
)

MODEL_RULES: tuple[Rule, ...] = (
    rule(  # huggingface_hub/utils/_http.py; an unknown name without a token is answered 401 too
        Cause.HUB_AUTH,
        r"GatedRepoError|(?:access|accessing) (?:a |to )?gated repo(?!.{0,40}make sure)"
        r"|Cannot access gated repo|40[13] Client Error|[Cc]lient error '40[13]|40[13] Unauthorized"
        r"|403 Forbidden|Invalid credentials in Authorization|Invalid (?:user )?token"
        r"|Access to model .* is restricted|Invalid username or password|token (?:is|has) expired",
        _ACCESS,
    ),
    rule(  # transformers/utils/hub.py:570; transformers_utils/config.py:849; default_loader.py:260
        Cause.HUB_NOT_FOUND,
        r"404 Client Error|[Cc]lient error '404|is not a valid model identifier"
        r"|(?:Repository|Revision|RemoteEntry|(?<!Local)Entry)NotFoundError"
        r"|Invalid repository ID or local directory|Repo id must (?:be in|use)|HFValidationError"
        r"|Cannot find any model weights|does not appear to have (?:a )?files? named"
        r"|No adapter found|LoRAAdapterNotFoundError|is not a valid git identifier"
        r"|Can't (?:load|find) (?:the |a )?(?:configuration|model|tokenizer|image processor)"
        r"|No such file or directory: .*(?:adapter_config|config|tokenizer\w*)\.json"
        r"|model path .* does not exist|[Nn]o (?:GGUF|such model)",
        _NAME,
    ),
    rule(  # the hub answers, but not with the model
        Cause.HUB_NETWORK,
        r"(?:[Cc]lient|[Ss]erver) error '(?:429|5\d\d)|\b(?:429|5\d\d) (?:Client|Server) Error"
        r"|couldn't connect to|We have no connection|LocalEntryNotFoundError|MaxRetryError"
        r"|specific connection error|outgoing traffic has been disabled|OfflineModeIsEnabled"
        r"|NameResolutionError|[Tt]emporary failure in name resolution|Name or service not known"
        r"|\b(?:httpx2?|requests\.exceptions|urllib3\.exceptions|aiohttp\.client_exceptions)\."
        r"\w*(?:Connect|Timeout|Proxy|SSL|Protocol|Network|Read|Chunked|Incomplete)\w*"
        r"|ProxyError|ConnectTimeout|ReadTimeout|Cannot send a request|IncompleteRead"
        r"|(?:while|when) (?:trying to locate|requesting HEAD|requesting GET|retrieving)",
        _NETWORK,
        retry=True,
    ),
    rule(
        Cause.HUB_NETWORK,
        r"Connection(?:Refused|Reset|Aborted)?Error|TimeoutError|timed out|SSLError"
        r"|Network is unreachable|peer closed connection",
        _NETWORK,
        within=_HUB_FRAMES,
        retry=True,
    ),
    rule(  # huggingface_hub/utils/_http.py:561: said while it waits and tries again
        Cause.HUB_NETWORK,
        r"HTTP Error (?:429|5\d\d) thrown|' thrown while requesting|Rate limited\. Waiting"
        r"|Retrying in \d+s \[Retry",
        _NETWORK,
        retry=True,
        weak=True,
    ),
    rule(  # safetensors' errors; camel case before 0.6
        Cause.CORRUPT_WEIGHTS,
        r"deserializing header|[Ii]ncomplete ?[Mm]etadata|InvalidHeader|[Hh]eader ?[Tt]oo"
        r"|SafetensorError|not initialized from checkpoint|unpack requires a buffer"
        r"|Weight files referenced in index but missing|UnpicklingError|PytorchStreamReader failed"
        r"|invalid load key|Consistency check failed|is not a valid JSON file"
        r"|[Ff]ile size mismatch|magic number|unexpected EOF|checksum",
        _FETCH,
    ),
    rule(  # transformers_utils/utils.py:112: an LFS pointer or HTML page read as a header's length
        Cause.CORRUPT_WEIGHTS,
        r"^(?:MemoryError|OverflowError|struct\.error)|JSONDecodeError|UnicodeDecodeError"
        r"|^(?:\w+\.)*EOFError",
        _FETCH,
        within=_WEIGHT_FRAMES + r"|:get_config\b|:_get_config_dict|configuration_utils\.py:|json",
    ),
    rule(Cause.CORRUPT_WEIGHTS, r"^MemoryError$", _FETCH),  # the same, of a paste without frames
    rule(  # weights of another shape or name than the configuration says
        Cause.CORRUPT_WEIGHTS,
        r"^(?:RuntimeError: )?The size of tensor a|shape mismatch|size mismatch for"
        r"|^AssertionError|^KeyError|must match the (?:existing )?size|^IndexError"
        r"|No module or parameter named|There is no module or parameter",
        "the weights do not fit the configuration: fetch the whole model again, of one revision",
        within=r":load_weights|weight_loader|:_load_module|:_load_param",
    ),
    rule(  # argparse: "vllm serve: error: argument --dtype: invalid choice"
        Cause.BAD_ARGUMENTS,
        r"^\S*(?: serve)?: error: |^usage: ",
        _OPTION,
    ),
    rule(  # a bind that can never work
        Cause.BAD_ARGUMENTS,
        r"\[Errno 99\]|Cannot assign requested address|No such file or directory|Permission denied"
        r"|AF_UNIX path too long|\[Errno 13\]",
        "correct host, port or uds",
        within=r":create_server(?:_unix)?_socket|:setup_server|:bind\b",
    ),
    rule(
        Cause.BAD_ARGUMENTS,
        r"Unable to read the config file|No such file or directory",
        _OPTION,
        within=r":load_config_file|:_?pull_args_from_config",
    ),
    rule(Cause.BAD_ARGUMENTS, r"^Unable to read the config file|^Unknown vLLM env", _OPTION),
    rule(  # models/registry.py:1206; configuration_auto.py:432; config/model.py; platforms/cuda.py
        Cause.BAD_ARGUMENTS,
        r"are not supported for now|does not recognize this architecture|[Uu]nknown quantization"
        r"|does not match the quantization|Cannot find the config file for"
        r"|quantization (?:method|scheme) .*(?:not |un)support|not supported for the current GPU"
        r"|Minimum capability|compute capability|Bfloat16 is only supported"
        r"|has no vLLM implementation|model type .* not (?:supported|recognize)"
        r"|failed to be inspected|[Uu]nsupported \w+ type"
        r"|FP8 .*not supported|is not supported (?:on|by|for|with|in)|does not support"
        r"|not compatible with",
        _SUPPORT,
    ),
    rule(  # config/*.py: what they refuse; pydantic since 0.9
        Cause.BAD_ARGUMENTS,
        r"validation errors? for|User-specified max_model_len|trust_remote_code|custom code"
        r"|Total number of attention heads|must be divisible|is smaller than max_model_len"
        r"|greater than (?:the )?(?:derived|number of)|requires --|requires the --|invalid choice"
        r"|unrecognized arguments|appears path-like|invalid (?:tool call|reasoning) parser"
        r"|Unable to configure handler|Unknown RoPE|[Ii]nvalid value|[Ii]nvalid option"
        r"|World size .* (?:is )?(?:larger|greater)|more GPUs than"
        r"|Not enough (?:allowed )?(?:GPU|NUMA)|not enough available GPUs"
        r"|must be (?:one of|in|between|greater|less|a |at)"
        r"|Unexpected keyword|unexpected keyword argument|VLLMValidationError"
        r"|Invalid (?:config|dtype)|should be one of"
        r"|mutually exclusive|cannot be used (?:with|together)",
        _OPTION,
    ),
    rule(
        Cause.BAD_ARGUMENTS,
        r"^(?:\w+\.)*(?:ValueError|TypeError|AssertionError|KeyError|NotImplementedError"
        r"|AttributeError|FileNotFoundError)\b",
        _OPTION,
        within=_CONFIG_FRAMES,
    ),
)
