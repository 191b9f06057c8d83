# SPDX-License-Identifier: Apache-2.0
"""An address is read as it is written, or refused: a token must go where its owner wrote, and nowhere else."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_scnet.client.base_url import base_url
from airflow_provider_scnet.client.errors import ScnetConfigError


def refused(text: str, **fields: object) -> str:
    with pytest.raises(ScnetConfigError) as caught:
        base_url("the field 'host'", text, **fields)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "https://[zz]",
        "https://[]",
        "https://[::1",
        "https://a[::1]b",
        "https://[::1]junk",
        "https://[::1][::2]",
        "https://[1.2.3.4]",
        "https://[v1.a]",
        "https://[::1]]",
        "[::1",
        "::1]",
        "::1/hpc",
    ],
)
def test_brackets_hold_an_ipv6_address_and_nothing_stands_beside_them(text):
    assert re.search("no address|no name of a host", refused(text))


@pytest.mark.parametrize("zone", ["%eth0", "%25eth0", "%1", "%25", "%"])
def test_an_ipv6_address_has_no_zone(zone):
    refused(f"https://[fe80::1{zone}]")


@pytest.mark.parametrize(
    "text",
    [
        "ho st",
        "https://ho st",
        "https://ho\tst",
        "https://ho\nst.example",
        "https://host.example/a\rb",
        "ht\ntps://host.example",
        "https://host.example: 80",
        "https://host.example\x00",
        "https://host.example\x7f",
        "https://ｈost.example",
        "https://a。b",
        "https://a．b",
        "https://１２７.0.0.1",
        "https://ⓗost.example",
        "https://\u212aey.example",  # the sign of the kelvin, whose small letter is an ASCII k
        "https://主机.example",
        "https://host.example:８０",
        "https://host.example\u200b",
    ],
)
def test_white_space_and_characters_beyond_ascii_are_named(text):
    assert "white space or characters beyond ASCII" in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://host.example:",
        "host.example:",
        "https://[::1]:",
        "https://host.example:0",
        "host.example:0",
        "https://host.example:080",
        "https://host.example:65536",
        "https://host.example:99999",
        "https://host.example:+80",
        "https://host.example:-80",
        "https://host.example:8_0",
        "https://host.example:80:80",
    ],
)
def test_a_port_is_a_number_from_1_to_65535_or_is_left_out_with_its_colon(text):
    refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "//",
        "//host.example",
        "////host.example",
        "/host.example",
        "https:",
        "https:host.example",
        "https:/host.example",
        "https:///host.example",
        "https:////host.example",
        "https:\\\\host.example",
        "https://\\host.example",
        "://host.example",
        "1https://host.example",
        "https://https://host.example",
    ],
)
def test_a_host_has_its_place_between_two_slashes_and_the_next(text):
    refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://host.example\\@other.example",
        "https://host.example\\other.example",
        "https://host.example/\\other.example",
        "https://%68ost.example",
        "https://host.example%2f.other.example",
        "https://host.example%00.other.example",
        "https://@host.example",
        "https://:@host.example",
        "https://alice@host.example",
        "https://[::1]@host.example",
        "alice@host.example",
        "https://host.example?@other.example",
        "https://host.example#@other.example",
        "https://host.example?",
        "https://host.example/#",
        "https://host.example;other.example",
        "https://host.example,other.example",
    ],
)
def test_what_programs_read_in_different_ways_is_refused(text):
    refused(text)


@pytest.mark.parametrize(
    "path", ["/a/../b", "/.", "/./a", "/a/..", "/a//b", "//a", "/a;b", "/a@b", "/a%2Fb", "/a:b"]
)
def test_a_path_holds_plain_names(path):
    assert "unusual" in refused(f"https://host.example{path}")


@pytest.mark.parametrize("port", ["443", " 443 ", 443, "", None])
def test_a_secrets_backend_may_give_the_port_as_text(port):
    assert base_url("the field 'host'", "host.example", port=port) == "https://host.example"
    assert base_url("the field 'host'", "https://host.example:443", port=port) == "https://host.example"


def test_a_port_as_text_contradicts_as_a_number_does():
    assert "contradict" in refused("host.example:443", port="65051")
    assert base_url("the field 'host'", "host.example:65051", port="65051") == "https://host.example:65051"


@pytest.mark.parametrize("port", [0, -1, 65536, "0", "-1", "65536", "080", "4 43", "x", "443.0", "４４３", True])
def test_a_port_in_a_field_of_its_own_is_one(port):
    assert "no port" in refused("host.example", port=port)


def test_a_port_that_is_zero_does_not_give_way_to_the_field():
    refused("host.example:0", port=443)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::1]", "https://[::1]"),
        ("::1", "https://[::1]"),
        ("2001:DB8:0::1", "https://[2001:db8::1]"),
        ("https://[2001:DB8:0::1]:65051/hpc", "https://[2001:db8::1]:65051"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("https://host.example.", "https://host.example."),
        ("https://10.0.0.1:443", "https://10.0.0.1"),
        ("https://1a.2b.c3", "https://1a.2b.c3"),
        ("login_node", "https://login_node"),
        ("https://host.example//", "https://host.example"),
        ("https://host.example/Gate/~way_1/", "https://host.example/Gate/~way_1"),
    ],
)
def test_one_spelling_comes_out(text, address):
    assert base_url("the field 'host'", text) == address
    assert base_url("the field 'host'", address) == address


@pytest.mark.parametrize(
    "text",
    [
        "http://[::2]",
        "http://[::ffff:127.0.0.1]",
        "http://127.example",
        "http://127.1",
        "http://127.0.0.01",
        "http://127.0.0.256",
        "http://127.0.0.1.",
        "http://2130706433",
        "http://0x7f.1",
        "http://localhost.example",
        "http://128.0.0.1",
    ],
)
def test_plain_http_goes_to_loopback_only(text):
    assert "plain http" in refused(text)


@given(st.text(alphabet="ab1.:/@[]%\\?# \t-_０", max_size=12))
@example("a[::1]b")
@example("[::1]a")
def test_whatever_is_accepted_comes_out_as_it_was_written(rest):
    try:
        found = base_url("the field 'host'", f"https://{rest}")
    except ScnetConfigError:
        return
    written = rest.strip().rstrip("/")
    if not written.startswith("["):
        assert found == f"https://{written}"
    else:
        # An IPv6 address is shortened; what stands behind it is not.
        assert found.partition("]")[2] == written.partition("]")[2]
