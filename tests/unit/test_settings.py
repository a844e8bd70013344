"""Does every malformed variable give a message that names it, and do keys stay out of whatever is printed?"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from qdrant_model_migration.environment import child_environment, read_settings, secret_from_variable
from qdrant_model_migration.errors import NotFound, Refused, SettingsError
from qdrant_model_migration.settings import Connection, ModelSettings, Settings

KEY = "s3cret-of-the-person"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of ours is set."""
    for variable in list(os.environ):
        if variable.startswith("QDRANT_"):
            monkeypatch.delenv(variable)
    return monkeypatch


MALFORMED = [
    ("QDRANT_URL", "localhost:6333", "http://"),
    ("QDRANT_URL", "ftp://host", "http://"),
    ("QDRANT_URL", "http://", "http://"),
    ("QDRANT_URL", f"http://me:{KEY}@host:6333", "QDRANT_API_KEY"),
    ("QDRANT_URL", "http://host:port", "port"),
    ("QDRANT_URL", "http://host:99999", "port"),
    ("QDRANT_PREFER_GRPC", "perhaps", "boolean"),
    ("QDRANT_GRPC_PORT", "x", "integer"),
    ("QDRANT_GRPC_PORT", "0", "greater than or equal to 1"),
    ("QDRANT_GRPC_PORT", "70000", "less than or equal to 65535"),
    ("QDRANT_MIGRATION_READ_ONLY", "maybe", "boolean"),
    ("QDRANT_MIGRATION_LEASE_SECONDS", "1", "greater than or equal to 2"),
    ("QDRANT_MIGRATION_LEASE_SECONDS", "soon", "number"),
    ("QDRANT_MIGRATION_EMBEDDING_THREADS", "0", "greater than or equal to 1"),
    ("QDRANT_MIGRATION_CONNECTIONS", "{", "not JSON"),
    ("QDRANT_MIGRATION_CONNECTIONS", "[]", "JSON object"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"a": "http://host"}', "JSON object"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"a": {}}', "exactly one of 'url' and 'path'"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"a": {"url": "http://h", "path": "/p"}}', "exactly one"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"a": {"url": "host"}}', "http://"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"a": {"url": "http://h", "colour": "red"}}', "colour"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"default": {"url": "http://h"}}', "QDRANT_URL"),
    ("QDRANT_MIGRATION_CONNECTIONS", json.dumps({"a": {"url": "http://h", "api_key": KEY}}), "key_variable"),
    ("QDRANT_MIGRATION_CONNECTIONS", '{"a": {"url": "http://h", "key_variable": "NOT_SET_ANYWHERE"}}', "NOT_SET_ANYWHERE"),
    ("QDRANT_MIGRATION_CONNECTIONS", json.dumps({"a": {"url": "http://h", "key_variable": f"{KEY} 1"}}), "name of an environment variable"),
    ("QDRANT_MIGRATION_MODELS", "minilm", "not JSON"),
    ("QDRANT_MIGRATION_MODELS", '["minilm"]', "JSON object"),
    ("QDRANT_MIGRATION_MODELS", '{"m": {"dimensions": 0}}', "dimensions"),
    ("QDRANT_MIGRATION_MODELS", '{"m": {"pooling": "max"}}', "pooling"),
    ("QDRANT_MIGRATION_MODELS", '{"m": {"price": 3}}', "price"),
    ("QDRANT_MIGRATION_MODELS", json.dumps({"m": {"api_key": KEY}}), "key_variable"),
    ("QDRANT_MIGRATION_ALLOWED_COLLECTIONS", " , ", "names no collection"),
    ("QDRANT_MIGRATION_ALLOWED_DIRECTORIES", "/there/is/no/such/folder", "not a directory"),
]


@pytest.mark.parametrize(("variable", "value", "says"), MALFORMED, ids=[f"{v}-{i}" for i, (v, _, _) in enumerate(MALFORMED)])
def test_a_malformed_variable_is_named_and_no_key_repeated(environment: pytest.MonkeyPatch, variable: str, value: str, says: str) -> None:
    environment.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    text = str(caught.value)
    assert variable in text
    assert says in text
    assert KEY not in text
    assert KEY not in repr(caught.value)
    # A traceback prints causes too, and pydantic's would hold the input.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_without_any_variable_the_embedded_database_serves(environment: pytest.MonkeyPatch, home: Path) -> None:
    found = read_settings()
    assert found.is_default_location
    assert found.connection(None).is_embedded
    assert found.connection(None).path == home / ".qdrant-model-migration" / "qdrant"
    assert not (home / ".qdrant-model-migration").exists()


def test_an_address_wins_over_a_folder_and_loses_its_last_slash(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("QDRANT_URL", " http://host:6333/ ")
    environment.setenv("QDRANT_PATH", str(tmp_path))
    found = read_settings()
    assert found.connection("default").url == "http://host:6333"
    assert found.connection("default").path is None
    assert not found.is_default_location


def test_empty_variables_count_as_unset(environment: pytest.MonkeyPatch) -> None:
    """Hosts pass `QDRANT_API_KEY=` when the person left the input empty."""
    for variable in ("QDRANT_URL", "QDRANT_API_KEY", "QDRANT_MIGRATION_MODELS", "QDRANT_MIGRATION_READ_ONLY"):
        environment.setenv(variable, "")
    found = read_settings()
    assert found.is_default_location
    assert found.connection(None).api_key is None
    assert not found.is_read_only


def test_keys_are_in_no_text_of_the_settings(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QDRANT_URL", "http://host:6333")
    environment.setenv("QDRANT_API_KEY", KEY)
    environment.setenv("OTHER_KEY", KEY)
    environment.setenv("QDRANT_MIGRATION_HTTP_TOKEN", KEY)
    environment.setenv("QDRANT_MIGRATION_CONNECTIONS", '{"other": {"url": "https://other", "key_variable": "OTHER_KEY"}}')
    found = read_settings()
    other = found.connection("other")
    assert other.api_key is not None
    assert other.api_key.get_secret_value() == KEY
    for text in (repr(found), str(found), repr(other), str(other), found.model_dump_json(), str(found.model_dump())):
        assert KEY not in text


def test_an_unknown_connection_is_answered_with_the_known_ones(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QDRANT_MIGRATION_CONNECTIONS", '{"archive": {"url": "https://h"}}')
    with pytest.raises(NotFound, match="archive"):
        read_settings().connection("archiv")


def test_only_allowed_collections_are_touched(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QDRANT_MIGRATION_ALLOWED_COLLECTIONS", "docs*, faq")
    found = read_settings()
    found.check_collection_allowed("docs-2024")
    found.check_collection_allowed("faq")
    with pytest.raises(Refused, match="QDRANT_MIGRATION_ALLOWED_COLLECTIONS"):
        found.check_collection_allowed("Docs")


@pytest.mark.parametrize("value", [" , ", ",", "  "])
def test_an_allow_list_that_names_nothing_is_refused_and_does_not_allow_everything(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("QDRANT_MIGRATION_ALLOWED_COLLECTIONS", value)
    with pytest.raises(SettingsError, match="QDRANT_MIGRATION_ALLOWED_COLLECTIONS is set and names no collection"):
        read_settings()


def settings_with(*folders: Path) -> Settings:
    connection = Connection(name="default", url="http://host")
    return Settings(connections={"default": connection}, allowed_directories=folders, log_directory=Path("/nowhere"))


def test_a_file_is_read_only_inside_an_allowed_directory(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "q.jsonl").write_text("{}")
    (inside / "link.jsonl").symlink_to(outside / "q.jsonl")
    found = settings_with(inside.resolve())
    assert found.allowed_file("q.jsonl") == inside.resolve() / "q.jsonl"
    assert found.allowed_file(str(inside / "q.jsonl")) == inside.resolve() / "q.jsonl"
    for name in ("../outside/q.jsonl", str(outside / "q.jsonl"), "link.jsonl", "missing.jsonl", ".", "/etc/passwd"):
        with pytest.raises(Refused, match="QDRANT_MIGRATION_ALLOWED_DIRECTORIES"):
            found.allowed_file(name)
    with pytest.raises(Refused, match="no directory is allowed"):
        settings_with().allowed_file("q.jsonl")


def test_several_directories_are_separated_as_in_a_path(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    environment.setenv("QDRANT_MIGRATION_ALLOWED_DIRECTORIES", f"{one}{os.pathsep}{two}{os.pathsep}")
    assert read_settings().allowed_directories == (one.resolve(), two.resolve())


def test_a_key_that_is_not_set_is_named_by_its_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SOME_KEY", raising=False)
    with pytest.raises(SettingsError, match="SOME_KEY"):
        secret_from_variable("SOME_KEY", "model 'm'")
    environment.setenv("SOME_KEY", KEY)
    assert secret_from_variable("SOME_KEY", "model 'm'") == SecretStr(KEY)


def test_a_worker_inherits_the_environment_and_a_request_ends_before_half_the_lease(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QDRANT_API_KEY", KEY)
    environment.setenv("QDRANT_MIGRATION_LEASE_SECONDS", "10")
    assert child_environment()["QDRANT_API_KEY"] == KEY
    assert read_settings().request_timeout_s < 5


def test_models_are_read_with_their_defaults(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("QDRANT_MIGRATION_MODELS", '{"mine": {"path": "/models/mine", "query_prefix": "query: "}}')
    assert read_settings().models == {"mine": ModelSettings(path=Path("/models/mine"), query_prefix="query: ")}
