"""The HTTP front at LOCAL_LLM_URL."""
