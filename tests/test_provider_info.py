# SPDX-License-Identifier: Apache-2.0
"""What Airflow discovers: the metadata, the connection form, the names users import."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import airflow
import jsonschema
import pytest

import airflow_provider_scnet
from airflow_provider_scnet import get_provider_info
from airflow_provider_scnet.client import connection_settings
from airflow_provider_scnet.connection_form import CONN_FIELDS, UI_FIELD_BEHAVIOUR
from airflow_provider_scnet.hooks.scnet import ScnetHook

AIRFLOW = Path(next(iter(airflow.__path__)))
IS_3 = airflow.__version__.startswith("3.")
VERSION = tuple(int(part) for part in airflow.__version__.split(".")[:2])


def schema(name: str) -> dict:
    (found,) = [Path(folder) / name for folder in airflow.__path__ if (Path(folder) / name).exists()]
    return json.loads(found.read_text())


def test_the_metadata_passes_airflows_runtime_schema():
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_the_metadata_passes_airflows_strict_schema():
    # What provider.yaml has besides belongs to Airflow's own release process.
    full = {**get_provider_info(), "versions": ["0.1.0"], "state": "ready", "lifecycle": "production"}
    full |= {"source-date-epoch": 1, "dependencies": []}
    strict = schema("provider.yaml.schema.json")
    full = {key: value for key, value in full.items() if key in strict["properties"]}
    if VERSION < (3, 3):
        # conn-fields are younger than these schemas; their own Airflow ignores them.
        full["connection-types"] = [
            {k: v for k, v in full["connection-types"][0].items() if k in ("hook-class-name", "connection-type")}
        ]
    jsonschema.validate(full, strict)


def test_the_entry_point_is_the_one_that_airflow_looks_for():
    (entry,) = [
        point
        for point in importlib.metadata.entry_points(group="apache_airflow_provider")
        if point.dist is not None and point.dist.name == "airflow-provider-scnet"
    ]
    assert entry.load()() == get_provider_info()
    assert get_provider_info()["package-name"] == "airflow-provider-scnet"


def test_the_metadata_is_a_copy_that_nobody_can_spoil():
    get_provider_info()["connection-types"][0]["conn-fields"].clear()
    assert get_provider_info()["connection-types"][0]["conn-fields"]


def test_airflow_finds_the_provider_and_lists_its_hook():
    code = (
        "import sys; from airflow.providers_manager import ProvidersManager; from airflow.__main__ import main;"
        "print(ProvidersManager().providers['airflow-provider-scnet'].version);"
        "sys.argv = ['airflow', 'providers', 'hooks', '-o', 'json']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert airflow_provider_scnet.__version__ in done.stdout.splitlines()
    rows = json.loads(done.stdout[done.stdout.index("[{") :])
    (row,) = [row for row in rows if row["connection_type"] == "scnet"]
    assert row["class"] == "airflow_provider_scnet.hooks.scnet.ScnetHook"
    assert row["package_name"] == "airflow-provider-scnet"
    assert row["conn_id_attribute_name"] == "scnet_conn_id"
    assert row["hook_name"] == "SCnet"


def test_the_form_offers_every_extra_with_a_label_and_a_help_text():
    assert set(CONN_FIELDS) == set(connection_settings.EXTRAS)
    for field in CONN_FIELDS.values():
        assert field["label"]
        assert field["description"]


def test_the_form_asks_for_the_port_in_its_own_field():
    # With an empty one, the Test button of 3.3.2's page does not work.
    assert UI_FIELD_BEHAVIOUR["placeholders"]["port"].startswith("for example 65051")
    assert not re.search(r":\d", UI_FIELD_BEHAVIOUR["placeholders"]["host"])


@pytest.mark.skipif(not IS_3, reason="there is no API server before 3.0; its webserver asks the hook, as below")
def test_the_api_server_builds_the_form():
    # 3.3 builds it from the metadata, 3.1 from the hook's widgets.
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (hook,) = [hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "scnet"]
    assert hook.hook_name == "SCnet"
    assert hook.standard_fields.password.title == "Token"
    assert hook.standard_fields.login.title == "Cluster user"
    assert hook.standard_fields.host.title == "HPC endpoint"
    assert hook.standard_fields.url_schema.hidden is True
    assert set(hook.extra_fields) == set(CONN_FIELDS)
    for name, field in hook.extra_fields.items():
        assert field["schema"]["title"] == CONN_FIELDS[name]["label"]
        assert field["description"] == CONN_FIELDS[name]["description"]
        assert "null" in field["schema"]["type"]


def test_older_airflows_build_the_form_from_the_hook():
    assert ScnetHook.get_ui_field_behaviour() == {
        "hidden_fields": UI_FIELD_BEHAVIOUR["hidden-fields"],
        "relabeling": UI_FIELD_BEHAVIOUR["relabeling"],
        "placeholders": UI_FIELD_BEHAVIOUR["placeholders"],
    }


@pytest.mark.skipif(IS_3, reason="the webserver that asks the hook, and its wtforms, ended with 2.x")
def test_the_webserver_gets_a_widget_for_every_extra():
    widgets = ScnetHook.get_connection_form_widgets()
    assert set(widgets) == set(CONN_FIELDS)
    for name, widget in widgets.items():
        assert widget.args[0] == CONN_FIELDS[name]["label"]


def test_airflow_masks_the_token_and_the_keys_by_the_names_of_its_fields():
    try:
        from airflow.sdk._shared.secrets_masker import should_hide_value_for_key
    except ImportError:
        try:
            from airflow.sdk.execution_time.secrets_masker import should_hide_value_for_key
        except ImportError:
            from airflow.utils.log.secrets_masker import should_hide_value_for_key
    assert should_hide_value_for_key("password")
    assert should_hide_value_for_key("token")
    # Before 3.1 not by its name: as a value it is masked on every version.
    assert should_hide_value_for_key("access_key") or VERSION < (3, 1)
    assert should_hide_value_for_key("secret_key")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("hooks.scnet", ["ScnetHook"]),
        ("sensors.scnet", ["ScnetJobCountSensor"]),
        ("triggers.scnet", ["ScnetJobCountTrigger", "ScnetJobCountEventTrigger"]),
        ("client.job_counts", ["JobCounts"]),
        ("gate.condition", ["Condition", "ConditionError"]),
        (
            "client.errors",
            [
                *("ScnetError", "ScnetConnectionError", "ScnetResponseError", "ScnetConfigError"),
                *("ScnetApiError", "ScnetAuthError"),
            ],
        ),
        ("testing", ["ScnetSimulator"]),
    ],
)
def test_the_public_names_are_where_users_import_them_from(module, names):
    found = importlib.import_module(f"airflow_provider_scnet.{module}")
    for name in names:
        assert getattr(found, name).__doc__
