"""The rows for what is asked for: the hub, the weights, the options. First match wins.

A file behind a row is the wording's source (vLLM 0.32, transformers 5.19, huggingface_hub 2.4).
"""

from cahoots_vllm.core.diagnosis.causes import Cause
from cahoots_vllm.core.diagnosis.frames import (
    CHECK_FRAMES,
    CONFIG_FRAMES,
    HUB_FRAMES,
    MODEL_FILE_FRAMES,
    SOCKET_FRAMES,
    SSL_FRAMES,
)
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
INSTALL = (
    "install what the message names into the engine's environment; for ninja, nvcc or a compiler "
    "look at the PATH of the service first"
)
_SUPPORT = "choose another model or quantization, or an engine version that knows this one"

# What Python's json says of a damaged file; pydantic hides the exception's name.
_BAD_JSON = (
    r"(?:Expecting (?:value|property name|'.' delimiter)[^:]*|Unterminated string starting at"
    r"|Extra data|Invalid (?:control character|\\\S*)[^:]*): line \d+ column \d+ \(char \d+\)"
)
# A driver's library that cannot be loaded is no missing package.
_DRIVERS_LIBRARY = r"libcuda\.so|libnvidia|libamdhip"

MODEL_RULES: tuple[Rule, ...] = (
    rule(  # a bind that can never work; a certificate that is not there
        Cause.BAD_ARGUMENTS,
        r"\[Errno 99\]|Cannot assign requested address|No such file or directory|Permission denied"
        r"|AF_UNIX path too long|\[Errno 13\]|port must be|gaierror|Name or service not known",
        "correct host, port or uds",
        within=SOCKET_FRAMES,
    ),
    rule(
        Cause.BAD_ARGUMENTS,
        r"^\S*(?:Error|error)\b",
        "correct ssl-certfile and ssl-keyfile: they are missing, unreadable or of another key",
        within=SSL_FRAMES,
    ),
    rule(  # huggingface_hub/utils/_http.py; an unknown name without a token is answered 401 too
        Cause.HUB_AUTH,
        r"GatedRepoError|(?:access|accessing) (?:a |to )?gated repo(?!.{0,40}make sure)"
        r"|Cannot access gated repo|40[13] Client Error|[Cc]lient error '40[13]|40[13] Unauthorized"
        r"|403 Forbidden|Invalid credentials in Authorization|Invalid (?:user )?token"
        r"|NoCredentialsError|Unable to locate credentials"
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
        r"|No such file or directory: .*(?:adapter_|[/'])config\.json"
        r"|NotExistError|model path .* does not exist|[Nn]o (?:GGUF|such model)",
        _NAME,
    ),
    rule(  # its store's own client (hf_xet); a full disk speaks the same words
        Cause.HUB_NETWORK,
        r"CAS service error|(?:Data processing|File reconstruction) error",
        _NETWORK,
        unless=r"No space|os error 28",
        retry=True,
    ),
    rule(  # the hub answers, but not with the model
        Cause.HUB_NETWORK,
        r"(?:[Cc]lient|[Ss]erver) error '(?:429|5\d\d)|\b(?:429|5\d\d) (?:Client|Server) Error"
        r"|couldn't connect to|We have no connection|LocalEntryNotFoundError|MaxRetryError"
        r"|specific connection error|outgoing traffic has been disabled|OfflineModeIsEnabled"
        r"|NameResolutionError|[Tt]emporary failure in name resolution|Name or service not known"
        r"|\b(?:httpx2?|httpcore2?|requests\.exceptions|urllib3\.exceptions|aiohttp\.client_exceptions)\."
        r"\w*(?:Connect|Timeout|Proxy|SSL|Protocol|Network|Read|Chunked|Incomplete)\w*"
        r"|ProxyError|ConnectTimeout|ReadTimeout|Cannot send a request|IncompleteRead"
        r"|(?:while|when) (?:trying to locate|requesting HEAD|requesting GET|retrieving)",
        _NETWORK,
        retry=True,
    ),
    rule(
        Cause.HUB_NETWORK,
        r"Connection(?:Refused|Reset|Aborted)?Error|TimeoutError|timed out|SSLError|ReadError"
        r"|Connection (?:reset|aborted|closed)|gaierror|JSONDecodeError"
        r"|Network is unreachable|peer closed connection",
        _NETWORK,
        within=HUB_FRAMES,
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
        r"|invalid load key|Consistency check failed|is not a valid JSON file|GGUF magic invalid"
        r"|No such file or directory: .*(?:\.(?:safetensors|gguf|bin|pt|index\.json)\b"
        r"|tokenizer\w*\.(?:json|model)\b)|Couldn't instantiate the backend tokenizer"
        r"|Unrecognized model in .*`?model_type`? key"
        r"|[Ff]ile size mismatch|magic number|unexpected EOF|checksum",
        _FETCH,
    ),
    rule(  # a safetensors header or config.json that is no JSON, read while options are checked
        Cause.CORRUPT_WEIGHTS,
        rf"Value error, {_BAD_JSON}",
        _FETCH,
    ),
    rule(  # transformers_utils/utils.py:112: an LFS pointer or HTML page read as a header's length
        Cause.CORRUPT_WEIGHTS,
        r"^(?:MemoryError|OverflowError|struct\.error|zlib\.error)|JSONDecodeError|UnicodeDecodeError"
        r"|^(?:\w+\.)*EOFError|cannot reshape array",
        _FETCH,
        within=MODEL_FILE_FRAMES,
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
    rule(  # before the options: a package that an option needs
        Cause.MISSING_DEPENDENCY,
        r"^(?:\w+\.)*(?:ImportError|ModuleNotFoundError)|No module named|must be installed"
        r"|[Pp]lease (?:pip )?install",
        INSTALL,
        unless=_DRIVERS_LIBRARY,
    ),
    rule(  # argparse: "vllm serve: error: argument --dtype: invalid choice"
        Cause.BAD_ARGUMENTS,
        r"^\S*(?: serve)?: error: |^usage: ",
        _OPTION,
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
        r"|FP8 .*not supported|is not supported (?:on|by|for|with|in|yet)|does not support"
        r"|not compatible with|not supported in this architecture|untagged enum"
        r"|requires AVX|^!* ?Illegal instruction|exit code: -4\b",
        _SUPPORT,
    ),
    rule(  # config/*.py: what they refuse; pydantic since 0.9
        Cause.BAD_ARGUMENTS,
        r"validation errors? for|User-specified max_model_len|trust_remote_code|custom code"
        r"|Total number of attention heads|(?:must be|not) divisible|is smaller than max_model_len"
        r"|greater than (?:the )?(?:derived|number of)|requires --|requires the --|invalid choice"
        r"|unrecognized arguments|appears path-like|invalid (?:tool call|reasoning) parser"
        r"|Unable to configure handler|Unknown RoPE|[Ii]nvalid value|[Ii]nvalid option"
        r"|World size .* (?:is )?(?:larger|greater)|more GPUs than"
        r"|Not enough (?:allowed )?(?:GPU|NUMA)|not enough available GPUs"
        r"|must be (?:one of|in\b|between|greater|less|a |at\b)"
        r"|not aligned with|greater than max_lora_rank|expected target modules"
        r"|invalid literal for int\(\) with base 10: '(?:MIG|GPU)-|[Nn]o common block size"
        r"|appears to be a URI|files matching the pattern"
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
        within=CONFIG_FRAMES,
    ),
    # Only said of a bind where no frame is left; of a connection it is the network's, above.
    rule(
        Cause.BAD_ARGUMENTS,
        r"\[Errno 99\]|Cannot assign requested address",
        "correct host, port or uds",
    ),
)
# The last of all: whatever else an option's check refuses while the engine starts.
CHECK_RULES: tuple[Rule, ...] = (
    rule(
        Cause.BAD_ARGUMENTS,
        r"^jinja2\.exceptions\.\w*(?:Syntax|Assertion)Error",
        "correct the chat template",
        startup=True,
    ),
    rule(
        Cause.BAD_ARGUMENTS,
        r"^(?:\w+\.)*(?:ValueError|TypeError|NotImplementedError|KeyError|AssertionError)\b",
        _OPTION,
        raised_in=CHECK_FRAMES,
        startup=True,
    ),
)
