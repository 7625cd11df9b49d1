"""Where in the stack an exception was raised: regular expressions over "file.py:function"."""

# The client libraries of the hub, and the HTTP ones below them.
HUB_FRAMES = (
    r"hub\.py:|file_download\.py:|_http\.py:|hf_api\.py:|weight_utils\.py:(?:download|get_lock)"
    r"|:map_(?:httpcore_)?exceptions|:handle_request|http11\.py:|connectionpool\.py:|:urlopen"
    r"|adapters\.py:send|_snapshot_download\.py:|s3_utils\.py:"
)
# Reading a weight file's head or body, or what belongs to a model beside it.
WEIGHT_FRAMES = (
    r"safetensors|:load_weights|weight_loader|:get_?_?safetensors|default_loader\.py:"
    r"|weight_utils\.py:|:pt_weights_iterator|serialization\.py:|:parse_safetensors_file_metadata"
    r"|gguf_reader\.py:|:load_gguf_checkpoint"
)
MODEL_FILE_FRAMES = (
    WEIGHT_FRAMES
    + r"|:get_config\b|:_?get_config_dict|configuration_utils\.py:|tokenization_\w+\.py:"
    r"|:get_tokenizer\w*|:from_json|:_dict_from_json_file"
)
# Reading what was compiled before: torch/_inductor, vllm/compilation, triton's compiler and cache.
CACHE_FRAMES = (
    r"codecache\.py:|compile_tasks\.py:|output_code\.py:|autograd_cache\.py:|triton_bundler\.py:"
    r"|standalone_compile\.py:|compiler_interface\.py:|triton_heuristics\.py:|aot_compile\.py:"
    r"|(?:^| )caching\.py:|:_try_load_aot_compiled_fn"
    r"|(?:^| )compiler\.py:(?:_init_handles|compile)\b"
)
# Making the configuration, before any GPU work.
CONFIG_FRAMES = (
    r":create_engine_config|:create_model_config|:create_speculative_config|:from_engine_args"
    r"|:parse_args|:from_cli_args|:validate_parsed_serve_args|:validate_api_server_args"
    r"|:__post_init__|:init_app_state|:build_app|config\.py:verify|:get_config\b|:_verify_"
    r"|:verify_with|:resolve_model_cls|:get_rope|:get_quant_config|:get_quantization_config"
    r"|:from_config|:get_attn_backend|:get_model_architecture|:load_config_file|:get_tokenizer"
)
# Raised by what checks options, by the innermost frames: configuration, environment, tokenizer,
# renderer, platform, attention backend, KV cache layout.
CHECK_FRAMES = (
    r"(?:^| )(?:envs|arg_utils|config\w*|interface|cuda|rocm|cpu|xpu|selector|registry|hf"
    r"|chat_utils|kv_cache_utils|kv_cache_interface|tokeniz\w+|renderer\w*|attention|backend\w*)\.py:"
    r"|:select_common_block_size|:prepare_kernel_block_sizes|:get_attn_backend\w*|:verify_\w+"
    r"|:validate_\w+|:_validate_\w+|:_verify_\w+|:resolve_chat_template\w*|:_?compile_jinja\w*"
)
SOCKET_FRAMES = r":create_server(?:_unix)?_socket|:setup_server|:bind\b"
SSL_FRAMES = r":create_ssl_context|:load_cert_chain"
