"""What does a host show beside the name? One point that becomes another; drawn here, so that nothing is fetched."""

from __future__ import annotations

from base64 import b64encode

from mcp.types import Icon

_DRAWN = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="5" fill="#4527a0"/>'
    '<g fill="none" stroke="#fff" stroke-width="2"><circle cx="7" cy="12" r="3"/><path d="M12 12h6m-3-3 3 3-3 3"/></g></svg>'
)
ICON = Icon(src=f"data:image/svg+xml;base64,{b64encode(_DRAWN.encode()).decode()}", mime_type="image/svg+xml", sizes=["any"])
