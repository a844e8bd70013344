"""How is a collection described and configured with every key the server knows? Its own JSON, read and sent as it is.

The client's models know the keys of their own release: in descriptions they drop a key of a newer server, or refuse the whole answer
because of it, and they refuse to send one. A setting would be lost, and no comparison would show it. So servers are asked and told in
JSON. The embedded database, which is the client itself, takes models.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.errors import RequestRejected
from qdrant_model_migration.qdrant import translate
from qdrant_model_migration.qdrant.client import Caller


class Raw:
    """Descriptions and configuration of the collections of one Qdrant, as JSON."""

    def __init__(self, caller: Caller) -> None:
        self._call = caller

    async def describe(self, name: str) -> Json:
        """The `result` of GET /collections/{name}.

        Raises:
            NotFound: it does not exist.
        """
        if self._call.connection.is_embedded:
            found: Json = (await self._call(lambda: self._call.rest.get_collection(name))).model_dump(mode="json")
            return found
        return dict((await self._send("GET", "/collections/{name}", name))["result"])

    async def create(self, name: str, request: Json) -> None:
        """PUT /collections/{name}.

        Raises:
            AlreadyExists: the name is taken.
            RequestRejected: a value is not one that this Qdrant knows; the embedded database refuses unknown keys as well.
        """
        if self._call.connection.is_embedded:
            try:
                arguments = translate.creation(request)
            except ValidationError as error:
                unknown = ", ".join(sorted({".".join(str(part) for part in fault["loc"]) for fault in error.errors()})[:5])
                raise RequestRejected(
                    f"The embedded database does not take this configuration, and nothing was created: {unknown}."
                ) from None
            await self._call(lambda: self._call.rest.create_collection(name, **arguments))
        else:
            await self._send("PUT", "/collections/{name}", name, body=request)

    async def update(self, name: str, request: Json) -> None:
        """PATCH /collections/{name}; of the embedded database only the metadata can be changed."""
        if not self._call.connection.is_embedded:
            await self._send("PATCH", "/collections/{name}", name, body=request)
        elif request.get("metadata") is not None:
            await self._call(lambda: self._call.rest.update_collection(name, metadata=request["metadata"]))

    async def index(self, name: str, field: str, schema: Any) -> None:
        """PUT /collections/{name}/index, waited for. The embedded database has no indexes."""
        if not self._call.connection.is_embedded:
            body = {"field_name": field, "field_schema": schema}
            await self._send("PUT", "/collections/{name}/index", name, body=body, params={"wait": "true"})

    async def _send(self, method: str, url: str, name: str, *, body: Json | None = None, params: dict[str, str] | None = None) -> Json:
        more: dict[str, Any] = {}
        if body is not None:
            more = {"content": json.dumps(body).encode(), "headers": {"Content-Type": "application/json"}}
        client = self._call.rest.http.client
        return await self._call(
            lambda: client.request(type_=dict[str, Any], method=method, url=url, path_params={"name": name}, params=params or {}, **more)
        )
