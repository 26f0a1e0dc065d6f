"""BOLT 11, against the specification's own examples and against the `bolt11` package."""

from __future__ import annotations

import time
from contextlib import suppress
from hashlib import sha256

import bolt11 as oracle
import pytest
from coincurve import PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from dvm.lightning.bolt11 import (
    MAX_DESCRIPTION,
    MAX_LENGTH,
    MAX_MSAT,
    InvalidInvoice,
    _checksum,
    decode,
    encode,
)

KEY = PrivateKey(bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734"))
PAYEE = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"
HASH = "0001020304050607080900010203040506070809000102030405060708090102"
CAKE = (
    "One piece of chocolate cake, one icecream cone, one pickle, one slice of swiss cheese, one slice of "
    "salami, one lollypop, one piece of cherry pie, one sausage, one cupcake, and one slice of watermelon"
)

_P = "pp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypq"
_H = "hp58yjmdan79s6qqdhdzgynm4zwqd5d7xmw5fk98klysy043l2ahrqs"
_COFFEE = "dq5vdhkven9v5sxyetpdeessp5" + "zyg3" * 12 + "zygs"
_ZERO = "q" * 51

# (invoice, what it says): the examples of BOLT 11, "Examples".
SPEC = [
    (
        f"lnbc1pvjluez{_P}dpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq8rkx3yf5tcsyz3d73gafnh"
        "3cax9rn449d9p5uxz9ezhhypd0elx87sjle52x86fux2ypatgddc6k63n7erqz25le42c4u4ecky03ylcqca784w",
        {"msat": None, "description": "Please consider supporting this project", "expiry": 3600},
    ),
    (
        f"lnbc2500u1pvjluez{_P}dq5xysxxatsyp3k7enxv4jsxqzpuaztrnwngzn3kdzw5hydlzf03qdgm2hdq27cqv3agm2awhz5se903vru"
        "atfhq77w3ls4evs3ch9zw97j25emudupq63nyw24cg27h2rspfj9srp",
        {"msat": 250_000_000, "description": "1 cup coffee", "expiry": 60},
    ),
    (
        f"lnbc2500u1pvjluez{_P}dpquwpc4curk03c9wlrswe78q4eyqc7d8d0xqzpuyk0sg5g70me25alkluzd2x62aysf2pyy8edtjeevuv4"
        "p2d5p76r4zkmneet7uvyakky2zr4cusd45tftc9c5fh0nnqpnl2jfll544esqchsrny",
        {"msat": 250_000_000, "description": "ナンセンス 1杯", "expiry": 60},
    ),
    (
        f"lnbc20m1pvjluez{_P}{_H}cc6gd6ql3jrc5yzme8v4ntcewwz5cnw92tz0pc8qcuufvq7khhr8wpald05e92xw006sq94mg8v2ndf4s"
        "efvf9sygkshp5zfem29trqq2yxxz7",
        {
            "msat": 2_000_000_000,
            "description": None,
            "description_hash": sha256(CAKE.encode()).hexdigest(),
        },
    ),
    (
        f"lntb20m1pvjluez{_H}{_P}fpp3x9et2e20v6pu37c5d9vax37wxq72un98kmzzhznpurw9sgl2v0nklu2g4d0keph5t7tj9tcqd8rex"
        "nd07ux4uv2cjvcqwaxgj7v4uwn5wmypjd5n69z2xm3xgksg28nwht7f6zspwp3f9t",
        {"network": "testnet", "msat": 2_000_000_000},
    ),
    (  # two route hints
        f"lnbc20m1pvjluez{_P}{_H}fpp3qjmp7lwpagxun9pygexvgpjdc4jdj85fr9yq20q82gphp2nflc7jtzrcazrra7wwgzxqc8u7754cd"
        "lpfrmccae92qgzqvzq2ps8pqqqqqqpqqqqq9qqqvpeuqafqxu92d8lr6fvg0r5gv0heeeqgcrqlnm6jhphu9y00rrhy4grqszsvpcgpy"
        "9qqqqqqgqqqqq7qqzqj9n4evl6mr5aj9f58zp6fyjzup6ywn3x6sk8akg5v4tgn2q8g4fhx05wf6juaxu9760yp46454gpg5mtzgerlze"
        "zqcqvjnhjh8z3g2qqdhhwkj",
        {"msat": 2_000_000_000},
    ),
    (  # P2SH, P2WPKH, P2WSH
        f"lnbc20m1pvjluez{_H}{_P}fppj3a24vwu6r8ejrss3axul8rxldph2q7z9kmrgvr7xlaqm47apw3d48zm203kzcq357a4ls9al2ea73"
        "r8jcceyjtya6fu5wzzpe50zrge6ulk4nvjcpxlekvmxl6qcs9j3tz0469gq5g658y",
        {"msat": 2_000_000_000},
    ),
    (
        f"lnbc20m1pvjluez{_H}{_P}fppqw508d6qejxtdg4y5r3zarvary0c5xw7kepvrhrm9s57hejg0p662ur5j5cr03890fa7k2pypgttmh"
        "4897d3raaq85a293e9jpuqwl0rnfuwzam7yr8e690nd2ypcq9hlkdwdvycqa0qza8",
        {"msat": 2_000_000_000},
    ),
    (
        f"lnbc20m1pvjluez{_H}{_P}fp4qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q28j0v3rwgy9pvjnd48ee2pl8x"
        "rpxysd5g44td63g6xcjcu003j3qe8878hluqlvl3km8rm92f5stamd3jw763n3hck0ct7p8wwj463cql26ava",
        {"msat": 2_000_000_000},
    ),
    (  # pico-bitcoin
        "lnbc9678785340p1pwmna7lpp5gc3xfm08u9qy06djf8dfflhugl6p7lgza6dsjxq454gxhj9t7a0sd8dgfkx7cmtwd68yetpd5s9xar"
        "0wfjn5gpc8qhrsdfq24f5ggrxdaezqsnvda3kkum5wfjkzmfqf3jkgem9wgsyuctwdus9xgrcyqcjcgpzgfskx6eqf9hzqnteypzxz7f"
        "zypfhg6trddjhygrcyqezcgpzfysywmm5ypxxjemgw3hxjmn8yptk7untd9hxwg3q2d6xjcmtv4ezq7pqxgsxzmnyyqcjqmt0wfjjq6t"
        "5v4khxxqyjw5qcqp2rzjq0gxwkzc8w6323m55m4jyxcjwmy7stt9hwkwe2qxmy8zpsgg7jcuwz87fcqqeuqqqyqqqqlgqqqqn3qq9qn0"
        "7ytgrxxzad9hc4xt3mawjjt8znfv8xzscs7007v9gh9j569lencxa8xeujzkxs0uamak9aln6ez02uunw6rd2ht2sqe4hz8thcdagple"
        "ym0j",
        {
            "msat": 967_878_534,
            "payment_hash": "462264ede7e14047e9b249da94fefc47f41f7d02ee9b091815a5506bc8abf75f",
            "created_at": 1_572_468_703,
            "expiry": 604_800,
        },
    ),
    (
        f"lnbc25m1pvjluez{_P}{_COFFEE}9q5sqqqqqqqqqqqqqqqpqsq67gye39hfg3zd8rgc80k32tvy9xk2xunwm5lzexnvpx6fd77en8qa"
        "q424dxgt56cag2dpt359k3ssyhetktkpqh24jqnjyw6uqd08sgptq44qu",
        {
            "msat": 2_500_000_000,
            "description": "coffee beans",
            "payment_secret": "11" * 32,
            "features": 1 << 9 | 1 << 15 | 1 << 99,
        },
    ),
    (  # fields of other lengths, which must be ignored
        f"lnbc25m1pvjluez{_P}{_COFFEE}9q5sqqqqqqqqqqqqqqqpqsq2qrqqqfppnqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
        f"ppn{_ZERO}pp4{_ZERO}qqhpn{_ZERO}hp4{_ZERO}qqspn{_ZERO}sp4{_ZERO}qqnp5{_ZERO}qnpk{_ZERO}qqq"
        "2jxxfsnucm4jf4zwtznpaxphce606fvhvje5x7d4gw7n73994hgs7nteqvenq8a4ml8aqtchv5d9pf7l558889hp4yyrqv6a7zpq9fgp"
        "skqhza",
        {"msat": 2_500_000_000, "description": "coffee beans", "payment_secret": "11" * 32},
    ),
]

# "Examples of Invalid Invoices", and the fault that the error must name.
INVALID = [
    (
        f"lnbc2500u1pvjluez{_P}dpquwpc4curk03c9wlrswe78q4eyqc7d8d0xqzpuyk0sg5g70me25alkluzd2x62aysf2pyy8edtjeevuv4"
        "p2d5p76r4zkmneet7uvyakky2zr4cusd45tftc9c5fh0nnqpnl2jfll544esqchsrnt",
        "checksum",
    ),
    (
        f"pvjluez{_P}dpquwpc4curk03c9wlrswe78q4eyqc7d8d0xqzpuyk0sg5g70me25alkluzd2x62aysf2pyy8edtjeevuv4p2d5p76r4z"
        "kmneet7uvyakky2zr4cusd45tftc9c5fh0nnqpnl2jfll544esqchsrny",
        "separator",
    ),
    (
        f"LNBC2500u1pvjluez{_P}dpquwpc4curk03c9wlrswe78q4eyqc7d8d0xqzpuyk0sg5g70me25alkluzd2x62aysf2pyy8edtjeevuv4"
        "p2d5p76r4zkmneet7uvyakky2zr4cusd45tftc9c5fh0nnqpnl2jfll544esqchsrny",
        "case",
    ),
    (
        f"lnbc2500u1pvjluez{_P}dq5xysxxatsyp3k7enxv4jsxqzpuaxtrnwngzn3kdzw5hydlzf03qdgm2hdq27cqv3agm2awhz5se903vru"
        "atfhq77w3ls4evs3ch9zw97j25emudupq63nyw24cg27h2rspk28uwq",
        "signature",
    ),
    (f"lnbc1pvjluez{_P}dpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6na6hlh", "short"),
    (
        f"lnbc2500x1pvjluez{_P}dq5xysxxatsyp3k7enxv4jsxqzpujr6jxr9gq9pv6g46y7d20jfkegkg4gljz2ea2a3m9lmvvr95tq2s0kv"
        "u70u3axgelz3kyvtp2ywwt0y8hkx2869zq5dll9nelr83zzqqpgl2zg",
        "amount",
    ),
    (
        f"lnbc2500000001p1pvjluez{_P}dq5xysxxatsyp3k7enxv4jsxqzpu7hqtk93pkf7sw55rdv4k9z2vj050rxdr6za9ekfs3nlt5lr89"
        "jqpdmxsmlj9urqumg0h9wzpqecw7th56tdms40p2ny9q4ddvjsedzcplva53s",
        "millisatoshi",
    ),
]


def make(**changes: object) -> str:
    fields: dict[str, object] = {
        "network": "regtest",
        "msat": 21_000,
        "payment_hash": bytes(32),
        "description": "a job",
        "created_at": 1_780_000_000,
        "expiry": 600,
    }
    return encode(KEY, **{**fields, **changes})  # type: ignore[arg-type]


def with_checksum(invoice: str) -> str:
    """The invoice's text with its last six characters replaced by the right checksum."""
    hrp, _, data = invoice.rpartition("1")
    return f"{hrp}1{data[:-6]}{_checksum(hrp, data[:-6])}"


@pytest.mark.parametrize(("invoice", "says"), SPEC)
def test_the_specifications_examples_decode(invoice: str, says: dict[str, object]) -> None:
    got = decode(invoice)
    expected = {"network": "mainnet", "payment_hash": HASH, "created_at": 1_496_314_658} | says
    assert {name: getattr(got, name) for name in expected} == expected
    assert got.expires_at == got.created_at + got.expiry
    if got.payment_hash == HASH:
        assert got.payee == PAYEE
    assert decode(invoice.upper()) == got


@pytest.mark.parametrize(("invoice", "fault"), INVALID)
def test_the_specifications_invalid_examples_are_refused(invoice: str, fault: str) -> None:
    with pytest.raises(InvalidInvoice, match=fault):
        decode(invoice)


def test_an_unknown_required_feature_is_named_to_the_payer() -> None:
    invoice = (
        f"lnbc25m1pvjluez{_P}{_COFFEE}9q4psqqqqqqqqqqqqqqqpqsqq40wa3khl49yue3zsgm26jrepqr2eghqlx86rttutve3ugd05em86"
        "nsefzh4pfurpd9ek9w2vp95zxqnfe2u7ckudyahsa52q66tgzcp6t2dyk"
    )
    assert decode(invoice).unknown_required == (100,)
    assert decode(make()).unknown_required == ()


amounts = st.none() | st.integers(1, MAX_MSAT) | st.integers(1, 10**9).map(lambda sat: sat * 1000)


@given(
    network=st.sampled_from(["mainnet", "testnet", "regtest"]),
    msat=amounts,
    payment_hash=st.binary(min_size=32, max_size=32),
    about=st.text(max_size=150) | st.binary(min_size=32, max_size=32),
    created_at=st.integers(1, 2**35 - 1),
    expiry=st.integers(1, 2**40),
)
def test_what_is_encoded_decodes_to_itself_and_the_oracle_agrees(
    network: str, msat: int | None, payment_hash: bytes, about: str | bytes, created_at: int, expiry: int
) -> None:
    description = about if isinstance(about, str) else None
    hashed = about if isinstance(about, bytes) else None
    text = make(
        network=network,
        msat=msat,
        payment_hash=payment_hash,
        description=description,
        description_hash=hashed,
        created_at=created_at,
        expiry=expiry,
    )
    got = decode(text)
    assert (got.network, got.msat, got.created_at, got.expiry) == (network, msat, created_at, expiry)
    assert (got.description, got.payee) == (description, PAYEE)
    assert got.description_hash == (hashed.hex() if hashed else None)
    assert got.payment_hash == payment_hash.hex()
    theirs = oracle.decode(text)
    assert theirs.amount_msat == msat
    assert (theirs.payment_hash, theirs.payee, theirs.date) == (got.payment_hash, PAYEE, created_at)
    assert theirs.payment_secret == got.payment_secret
    assert theirs.expiry == expiry
    assert (theirs.description or "") == (description or "")


@given(msat=st.integers(1, 10**12), expiry=st.integers(1, 10**6))
def test_what_the_oracle_encodes_decodes(msat: int, expiry: int) -> None:
    tags = oracle.Tags()
    tags.add(oracle.TagChar.payment_hash, "ab" * 32)
    tags.add(oracle.TagChar.payment_secret, "cd" * 32)
    tags.add(oracle.TagChar.description, "of another hand")
    tags.add(oracle.TagChar.expire_time, expiry)
    invoice = oracle.Bolt11("bc", int(time.time()), tags, oracle.MilliSatoshi(msat))
    got = decode(oracle.encode(invoice, KEY.to_hex()))
    assert (got.msat, got.expiry, got.description) == (msat, expiry, "of another hand")
    assert (got.payment_hash, got.payment_secret, got.payee) == ("ab" * 32, "cd" * 32, PAYEE)


@given(st.integers(0, 400), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1bioX \0é"))
def test_no_single_changed_character_passes(at: int, character: str) -> None:
    text = make()
    at %= len(text)
    if text[at] != character:
        with pytest.raises(InvalidInvoice):
            decode(text[:at] + character + text[at + 1 :])


@given(st.integers(8, 400), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l"))
def test_with_the_checksum_mended_a_changed_invoice_is_anothers_or_none(at: int, character: str) -> None:
    """Bech32 keeps out accidents; only the signature keeps out intent."""
    text = make()
    start = text.rindex("1") + 1
    at = start + at % (len(text) - start - 6)
    if text[at] == character:
        return
    try:
        got = decode(with_checksum(text[:at] + character + text[at + 1 :]))
    except InvalidInvoice:
        return
    assert got.payee != PAYEE or at >= len(text) - 8  # the recovery id's padding is no part of the claim


alphabet = st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l", max_size=400)


@given(st.text(max_size=300) | st.from_regex(r"ln(bc|tb|bcrt)[0-9a-z]{0,20}1[a-z0-9]{0,200}", fullmatch=True))
@example("")
@example("1")
@example("ln1")
@example("lnbc1")
@example("lnbc" + "9" * 3000 + "1qqqqqq")
@example("\ud800")
@example("q" * (MAX_LENGTH + 1))
def test_no_text_raises_anything_but_invalid_invoice(text: str) -> None:
    with pytest.raises(InvalidInvoice):
        decode(text)


@given(hrp=st.sampled_from(["lnbc", "lnbcrt10u", "lnbc1", "ln", "lntbs7p", "lnbc99999999999m"]), data=alphabet)
@example(hrp="lnbc", data="q" * 7_000)
@example(hrp="lnbc", data="pvjluez" + "d7l" + "q" * 1023 + "q" * 104)
def test_nothing_with_a_right_checksum_raises_anything_else(hrp: str, data: str) -> None:
    with suppress(InvalidInvoice):
        decode(f"{hrp}1{data}{_checksum(hrp, data)}")


@pytest.mark.parametrize(
    ("hrp", "fault"),
    [
        ("lnbc0", "amount"),
        ("lnbc01u", "amount"),
        ("lnbc-1u", "amount"),
        ("lnbc1.5u", "amount"),
        ("lnbcu", "amount"),
        ("lnbc21000001", "more than"),
        ("lnbc15p", "millisatoshi"),
        ("lnxx1u", "network"),
        ("bc1u", "begins with ln"),
    ],
)
def test_amounts_that_mean_nothing_are_refused(hrp: str, fault: str) -> None:
    data = make().rpartition("1")[2][:-6]
    with pytest.raises(InvalidInvoice, match=fault):
        decode(f"{hrp}1{data}{_checksum(hrp, data)}")


def field(letter: str, symbols: str) -> str:
    charset = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    return f"{letter}{charset[len(symbols) >> 5]}{charset[len(symbols) & 31]}{symbols}"


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (field("p", "q" * 52) * 2 + field("d", ""), "twice"),
        (field("d", ""), "no payment hash"),
        (field("p", "q" * 51) + field("d", ""), "no payment hash"),
        (field("p", "q" * 52), "description"),
        (field("p", "q" * 52) + field("d", "") + field("h", "q" * 52), "description"),
        (field("p", "q" * 52) + field("d", "ll"), "UTF-8"),
        (field("p", "q" * 52) + field("d", "") + field("x", "l" * 40), "expiry"),
        (field("p", "q" * 52) + field("d", "") + field("n", "q" * 53), "signature"),
        (field("p", "q" * 52) + "d7", "cut off"),
        (field("p", "q" * 52) + "d7lq", "cut off"),
    ],
)
def test_fields_that_contradict_or_are_cut_off_are_refused(fields: str, fault: str) -> None:
    text = make()
    signature = text[-110:-6]
    data = "pvjluez" + fields + signature
    with pytest.raises(InvalidInvoice, match=fault):
        decode(f"lnbcrt1{data}{_checksum('lnbcrt', data)}")


def test_a_payee_that_is_named_must_have_signed() -> None:
    """With `n` the key is given, not recovered: a signature by another key is worth nothing."""
    tags = oracle.Tags()
    tags.add(oracle.TagChar.payment_hash, "ab" * 32)
    tags.add(oracle.TagChar.payment_secret, "cd" * 32)
    tags.add(oracle.TagChar.description, "named")
    tags.add(oracle.TagChar.payee, PAYEE)
    invoice = oracle.Bolt11("bc", 1_780_000_000, tags, oracle.MilliSatoshi(1000))
    assert decode(oracle.encode(invoice, KEY.to_hex(), keep_payee=True)).payee == PAYEE
    with pytest.raises(InvalidInvoice, match="payee"):
        decode(oracle.encode(invoice, "11" * 32, keep_payee=True, ignore_exceptions=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "mars"},
        {"msat": 0},
        {"msat": -1000},
        {"msat": MAX_MSAT + 1},
        {"description": None},
        {"description_hash": bytes(32)},
        {"description": "é" * (MAX_DESCRIPTION // 2 + 1)},
        {"description": "\ud800"},
        {"payment_hash": b"short"},
        {"description": None, "description_hash": b"short"},
        {"payment_secret": b"short"},
        {"expiry": 0},
        {"created_at": -1},
        {"created_at": 2**35},
    ],
)
def test_what_no_invoice_can_say_is_not_encoded(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInvoice):
        make(**changes)
