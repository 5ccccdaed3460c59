"""What Airflow is told about the provider, checked with Airflow's own schemas, and the connection's form."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from packaging.version import Version

from airflow_ams import __version__
from airflow_ams.hooks.ams import AmsHook
from airflow_ams.hooks.credentials import CLOUDS as FORM_CLOUDS
from airflow_ams.provider_info import CONN_FIELDS, get_provider_info

AIRFLOW = Version(version("apache-airflow"))
DRAW_FORM = """
import json, sys
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

[form] = [form for form in HookMetaService.hook_meta_data() if form.connection_type == "ams"]
print(json.dumps([form.model_dump(mode="json"), "airflow_ams.hooks.ams" in sys.modules]))
"""
FORM_IS_DRAWN_BY_HOOKS = importlib.util.find_spec("flask_appbuilder") is not None


def schema(name: str) -> dict[str, Any]:
    """Read one of Airflow's own schemas."""
    path = Path(airflow.__path__[0]) / name
    if not path.exists():
        pytest.skip(f"Airflow {AIRFLOW} brings no {name}")
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_it_is_valid_for_the_runtime_schema() -> None:
    """Airflow's providers manager validates by this schema when it loads the entry point."""
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_its_connection_type_is_valid_for_the_full_schema() -> None:
    """From 3.2 on, the form's fields are part of the full schema, which the runtime one does not know."""
    full = schema("provider.yaml.schema.json")
    if Version("3.2") > AIRFLOW:
        pytest.skip(f"Airflow {AIRFLOW} knows no conn-fields")
    items = full["properties"]["connection-types"]
    assert "conn-fields" in json.dumps(items)
    connection_types = get_provider_info()["connection-types"]
    jsonschema.validate(connection_types, {**items, "definitions": full.get("definitions", {})})


def test_airflow_finds_the_hook() -> None:
    """The classes and modules that it names are there, and agree with it."""
    info = get_provider_info()
    (declared,) = info["connection-types"]
    module, _, name = declared["hook-class-name"].rpartition(".")
    hook = getattr(importlib.import_module(module), name)
    assert hook is AmsHook
    assert (hook.conn_type, hook.hook_name) == (declared["connection-type"], declared["hook-name"])
    for kind in ("hooks", "sensors"):
        for entry in info[kind]:
            for named in entry["python-modules"]:
                assert importlib.util.find_spec(named), named
    assert info["versions"] == [__version__]
    assert info["package-name"] == "airflow-ams"


@pytest.mark.parametrize("name", list(CONN_FIELDS))
def test_every_field_of_the_form_explains_itself(name: str) -> None:
    """Each has a label, a description and a type that may be null: none is required.

    A drop-down does not list null all the same: Airflow would show the word as one of its values.
    """
    field = CONN_FIELDS[name]
    assert field["label"]
    assert field["description"].endswith(".")
    assert "null" in field["schema"]["type"]
    jsonschema.Draft7Validator.check_schema(field["schema"])
    assert None not in field["schema"].get("enum", [])


def test_no_field_of_the_form_is_a_secret() -> None:
    """The one secret is the password, which Airflow encrypts and masks; extra fields are plain."""
    assert not [name for name in CONN_FIELDS if any(word in name for word in ("secret", "password", "key"))]
    assert "password" in get_provider_info()["connection-types"][0]["ui-field-behaviour"]["relabeling"]


def test_the_clouds_of_the_form_are_those_that_are_known() -> None:
    """The drop-down and the code do not drift apart."""
    from airflow_ams.api.tokens import CLOUDS

    assert set(FORM_CLOUDS) == set(CLOUDS)


def test_schema_is_hidden_and_old_versions_hide_the_same() -> None:
    """The hook's fallback for 2.11 to 3.1 says what the declarative form says."""
    declared = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
    assert "schema" in declared["hidden-fields"]
    assert AmsHook.get_ui_field_behaviour() == {
        "hidden_fields": declared["hidden-fields"],
        "relabeling": declared["relabeling"],
        "placeholders": declared["placeholders"],
    }


@pytest.mark.skipif(not FORM_IS_DRAWN_BY_HOOKS, reason="only Airflow 2.11 brings flask_appbuilder")
def test_the_old_form_has_the_same_fields() -> None:
    """On 2.11 the widgets come from the same table: names, labels and choices."""
    from flask import Flask
    from werkzeug.datastructures import MultiDict
    from wtforms import Form

    widgets = AmsHook.get_connection_form_widgets()
    assert list(widgets) == list(CONN_FIELDS)
    app = Flask("form")
    with app.app_context(), app.test_request_context():
        form = type("Drawn", (Form,), widgets)()
        for name, field in CONN_FIELDS.items():
            drawn = form[name]
            assert drawn.label.text == field["label"]
            assert drawn.description == field["description"]
        assert form.validate()
        for name, field in CONN_FIELDS.items():
            for choice in field["schema"].get("enum", []):
                assert type("Drawn", (Form,), widgets)(MultiDict({name: choice})).validate()
        refused = type("Drawn", (Form,), widgets)(MultiDict({"auth": "no such way"}))
        assert not refused.validate()
        assert list(refused.errors) == ["auth"]


@pytest.mark.skipif(not FORM_IS_DRAWN_BY_HOOKS, reason="only Airflow 2.11 brings flask_appbuilder")
def test_airflow_2_takes_the_old_form() -> None:
    """Airflow's own providers manager accepts the behaviour of the hook, and each of its fields."""
    from airflow.providers_manager import ProvidersManager

    make_manager: Any = ProvidersManager
    manager = make_manager()
    manager._customized_form_fields_schema_validator.validate(AmsHook.get_ui_field_behaviour())
    assert {f"extra__ams__{name}" for name in CONN_FIELDS} <= set(manager.connection_form_widgets)


@pytest.mark.skipif(Version("3") > AIRFLOW, reason="Airflow 2 has no API server to draw forms")
def test_the_api_server_draws_every_field() -> None:
    """The form of Airflow 3 has all fields and choices; from 3.2 on the hook is not imported for it.

    It runs in a process of its own: for old hooks Airflow puts mocks of web libraries into `sys.modules`.
    """
    child = subprocess.run([sys.executable, "-c", DRAW_FORM], capture_output=True, text=True, check=True)
    form, hook_imported = json.loads(child.stdout.splitlines()[-1])
    assert list(form["extra_fields"]) == list(CONN_FIELDS)
    assert form["extra_fields"]["auth"]["schema"]["enum"] == CONN_FIELDS["auth"]["schema"]["enum"]
    assert form["standard_fields"]["url_schema"]["hidden"]
    assert form["standard_fields"]["host"]["title"] == "API base"
    assert hook_imported == (Version("3.2") > AIRFLOW)
