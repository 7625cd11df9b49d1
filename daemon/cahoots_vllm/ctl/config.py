"""Settings and what a change of them does, as text. Pure."""

from cahoots_vllm.ctl.text import Json, Line, Tone

_NOT_SET = "not set"


def config_table(entries: list[Json]) -> list[Line]:
    """List each setting with its value and where it comes from; defaults last in no way."""
    shown = [(str(e.get("key")), _said(e.get("value")), str(e.get("origin"))) for e in entries]
    keys = max((len(key) for key, _, _ in shown), default=0)
    values = min(max((len(value) for _, value, _ in shown), default=0), 40)
    return [
        Line(f"{key:<{keys}}  {value:<{values}}  {origin}".rstrip()) for key, value, origin in shown
    ]


def change_lines(changes: list[Json]) -> list[Line]:
    """Say what a reload would do, a line a key."""
    if not changes:
        return [Line("nothing would change")]
    return [
        Line(
            f"{change.get('key')}: {_said(change.get('before'))} -> {_said(change.get('after'))}"
            f" ({change.get('effect')})",
            Tone.WARNING if "worker" in str(change.get("effect")) else Tone.PLAIN,
        )
        for change in changes
    ]


def key_lines(document: Json) -> list[Line]:
    """Say where a new key and its hash go: neither is kept."""
    texts = (
        "the key, for the client, and shown this once:",
        f"    {document['key']}",
        "its hash, for cahoots-vllm.toml; save it, and the key counts:",
        "    [gateway]",
        f'    api_keys = ["{document["hash"]}"]',
    )
    return [Line(text) for text in texts]


def _said(value: object) -> str:
    if value is None:
        return _NOT_SET
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
