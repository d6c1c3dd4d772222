"""The address of a store on a server: what libpq is given of it, and that its password is shown nowhere."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from mpcheckpoint import Checkpoint
from mpcheckpoint._postgres.address import Address
from mpcheckpoint.errors import InvalidAddressError

if TYPE_CHECKING:
    from collections.abc import Mapping

PASSWORD = "s3cr3t"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)

WHOLE = {
    "postgresql://h/db": ({"host": "h", "dbname": "db"}, "checkpoint"),
    "postgres://u:p@h:5433/db#run": (
        {"user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "db"},
        "run",
    ),
    "POSTGRESQL://u@a,b:77,[::1]:78/db": (
        {"user": "u", "host": "a,b,::1", "port": ",77,78", "dbname": "db"},
        "checkpoint",
    ),
    "postgresql:///?service=mine#a/b": ({"service": "mine"}, "a/b"),
    "postgresql://%2Fvar%2Frun%2Fpg/d%20b#%C3%A4%23": ({"host": "/var/run/pg", "dbname": "d b"}, "ä#"),
    "postgresql://u:p%40%2F%3A%23@h/db": (
        {"user": "u", "password": "p@/:#", "host": "h", "dbname": "db"},
        "checkpoint",
    ),
    "postgresql://u:a:b'\\@h/db": (
        {"user": "u", "password": "a:b'\\", "host": "h", "dbname": "db"},
        "checkpoint",
    ),
    "postgresql://h/db?sslmode=require&password=p%26": (
        {"host": "h", "dbname": "db", "sslmode": "require", "password": "p&"},
        "checkpoint",
    ),
    "postgresql://u:***@h/db?sslpassword=***": ({"user": "u", "host": "h", "dbname": "db"}, "checkpoint"),
}


@pytest.mark.parametrize("text", WHOLE)
def test_address_gives_libpq_what_it_says_and_names_the_store(text: str) -> None:
    expected, store = WHOLE[text]
    address = Address.parse(text)

    assert conninfo_to_dict(address.conninfo()) == expected
    assert address.store == store
    assert address.scheme == "postgresql"


@pytest.mark.parametrize("text", WHOLE)
def test_address_is_the_same_after_pickling_and_as_it_is_shown_but_for_the_password(text: str) -> None:
    address = Address.parse(text)

    assert pickle.loads(pickle.dumps(address)) == address
    assert hash(pickle.loads(pickle.dumps(address))) == hash(address)
    assert Address.parse(str(address)) == address.without_password()
    assert not address.without_password().has_password
    assert address.has_password == ("password" in conninfo_to_dict(address.conninfo()))


SHOWN = {
    f"postgres://u:{PASSWORD}@h:5433,[::1]/db?sslmode=require#run": "postgresql://u:***@h:5433,[::1]/db?sslmode=require#run",
    f"postgresql://h/db?password={PASSWORD}&sslpassword={PASSWORD}": (
        "postgresql://h/db?password=***&sslpassword=***#checkpoint"
    ),
    f"postgresql://:{PASSWORD}@h/db": "postgresql://:***@h/db#checkpoint",
    f"postgresql://h/db?of_a_later_libpq={PASSWORD}": "postgresql://h/db?of_a_later_libpq=***#checkpoint",
}


@pytest.mark.parametrize("text", SHOWN)
def test_address_is_shown_without_what_is_secret(text: str) -> None:
    address = Address.parse(text)

    assert str(address) == SHOWN[text]
    assert repr(address) == f"<Address {SHOWN[text]}>"
    assert PASSWORD in address.conninfo()
    assert PASSWORD not in address.without_password().conninfo() + str(address.without_password())


BAD = [
    f"postgresql://u:{PASSWORD}@h",
    f"postgresql://u:a#{PASSWORD}@h/db",
    f"postgresql://u:a/{PASSWORD}@h/db",
    f"postgresql://u:12/{PASSWORD}@h/db",
    f"postgresql://u:12/a#{PASSWORD}@h/db",
    f"postgresql://u:12/a?{PASSWORD}@h/db",
    f"postgresql://u:a@{PASSWORD}@h/db",
    f"postgresql://u:{PASSWORD}/x",
    f"postgresql://u:{PASSWORD}%zz@h/db",
    f"postgresql://u:{PASSWORD}%ff@h/db",
    f"postgresql://u:{PASSWORD}%00@h/db",
    f"postgresql://u:{PASSWORD} @h/db",
    f"postgresql://u:{PASSWORD}\n@h/db",
    f"postgresql://u:{PASSWORD}\udc80@h/db",
    f"postgresql://u:{PASSWORD}@h:99999/db",
    f"postgresql://u:{PASSWORD}@h:0/db",
    f"postgresql://u:{PASSWORD}@[::1/db",
    f"postgresql://u:{PASSWORD}@a%2Cb/db",
    f"postgresql://h/db?password={PASSWORD}&{PASSWORD}",
    f"postgresql://h/db?password={PASSWORD}&password=b",
    f"postgresql://h/db?{PASSWORD}",
    f"postgresql://h/db?{PASSWORD}%3D=1",
    f"postgresql://u:{PASSWORD}@h/db#",
    f"postgresql://u:{PASSWORD}@h/db#{'x' * 201}",
    f"postgresql://u:{PASSWORD}@h/db#{'%C3%A4' * 101}",
    f"postgresql:/u:{PASSWORD}@h/db",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused_without_repeating_anything_of_it(text: str) -> None:
    with pytest.raises(InvalidAddressError, match="postgresql://user@host/database#store") as caught:
        Address.parse(text)

    shown = "".join(traceback.format_exception(caught.value, chain=True)) + repr(vars(caught.value))
    assert PASSWORD not in shown


@given(user=TEXT, password=TEXT, database=TEXT, store=TEXT.filter(lambda text: len(text.encode()) <= 200))
def test_any_names_and_any_password_come_through_if_they_are_escaped(
    user: str, password: str, database: str, store: str
) -> None:
    parts = [quote(part, safe="") for part in (user, password, database, store)]
    address = Address.parse("postgresql://{}:{}@h/{}#{}".format(*parts))

    told: Mapping[str, object] = conninfo_to_dict(address.conninfo())

    kept = {} if password == "***" else {"password": password}
    assert told == {"user": user, "host": "h", "dbname": database, **kept}
    assert address.store == store
    assert Address.parse(str(address)) == address.without_password()


@given(
    password=st.text("ab1@:/?#[]&=%,. \\'", max_size=12),
    rest=st.sampled_from(["h/db", "h:5/db?a=b#c", "/db"]),
)
def test_no_password_with_any_marks_in_it_is_shown(password: str, rest: str) -> None:
    text = f"postgresql://u:{PASSWORD}{password}{PASSWORD}@{rest}"
    try:
        shown = str(Address.parse(text))
    except InvalidAddressError as error:
        shown = str(error)

    assert PASSWORD not in shown


@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ("s3cr3t=1", "a parameter that libpq does not know"),
        ("sslmode=s3cr3t", "the value of sslmode"),
        ("connect_timeout=s3cr3t", "the value of connect_timeout"),
        ("service=s3cr3t", "the value of service"),
    ],
)
def test_a_parameter_that_libpq_does_not_take_is_refused_at_once(parameter: str, named: str) -> None:
    with pytest.raises(InvalidAddressError, match=named) as refused:
        Checkpoint(f"postgresql://127.0.0.1:1/db?{parameter}", retry_s=0)

    assert PASSWORD not in "".join(traceback.format_exception(refused.value))
