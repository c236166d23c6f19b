"""URLs against lists: plain Python that knows the parts which a URL was made of, and never parses it."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.arrow import Utf8View, utf8_view
from pipeline.toxicity.urls import PATHS, make_table, scan_urls

LABELS = ["a", "b", "www", "Porn", "x-1", "ünï", "例", "xn--fsq", "1"]
HOSTS = st.one_of(
    st.lists(st.sampled_from(LABELS), min_size=1, max_size=4).map(".".join),
    st.sampled_from(["1.2.3.4", "10.2.3.4", "[2001:db8::1]", "[2001:DB8:0:0::1]", "[::]"]),
)
PATH = st.lists(st.sampled_from(["/", "a", "B", "sex", ".html", "?q=1", "ü", "%41", "&"]), max_size=5).map("".join)
SCHEMES = ["http://", "HTTPS://", "//", "", "ftp://", "http:\\\\"]


def plain(host: str) -> str:
    host = host.lower()
    if host.startswith("["):
        return "[::]" if host == "[::]" else "[2001:db8::1]"
    host = ".".join(label if label.isascii() else label.encode("idna").decode() for label in host.split("."))
    return host.removeprefix("www.") if host.startswith("www.") and "." in host[4:] else host


def whole_path(path: str) -> str:
    path = "".join(c if c.isascii() else "".join(f"%{b:02x}" for b in c.encode()) for c in path.lower())
    return path if path.startswith("/") else f"/{path}"


def domains_of(host: str) -> set[str]:
    if host.startswith("[") or host.replace(".", "").isdecimal():
        return {host}
    labels = host.split(".")
    return {".".join(labels[n:]) for n in range(len(labels))}


def view(urls: list[str | None]) -> Utf8View:
    return utf8_view(pa.array(urls, pa.string()))


def table(domains: list[str], paths: list[str] = []):  # noqa: B006
    keys = dict.fromkeys(scan_urls(view(domains)).hosts.tolist(), 1)
    if paths:
        found = scan_urls(view(paths))
        for host, path in zip(found.hosts.tolist(), found.paths.tolist(), strict=True):
            keys[host] = keys.get(host, 0) | int(PATHS)
            keys[path] = keys.get(path, 0) | 2
    ordered = sorted(keys)
    return make_table(np.array(ordered, np.uint64), np.array([keys[key] for key in ordered], np.uint64))


@given(
    entries=st.lists(HOSTS, max_size=5),
    urls=st.lists(
        st.tuples(
            st.sampled_from(SCHEMES),
            st.sampled_from(["", "user@", "user:p@ss@"]),
            HOSTS,
            st.sampled_from(["", ".", ".."]),
            st.sampled_from(["", ":80", ":"]),
            PATH,
            st.sampled_from(["", "#f/@b.a"]),
        ),
        max_size=5,
    ),
    paths=st.lists(st.tuples(HOSTS, PATH), max_size=4),
)
def test_urls_as_in_plain_python(entries, urls, paths):
    urls = [(*url[:5], f"/{url[5]}" if url[5][:1] not in ("", "/", "?") else url[5], url[6]) for url in urls]
    paths = [(host, f"/{path}" if path[:1] not in ("", "/", "?") else path) for host, path in paths]
    listed = {plain(entry) for entry in entries}
    beginnings = [plain(host) + whole_path(path) for host, path in paths]
    expected = []
    for _, _, host, _, _, path, _ in urls:
        name = plain(host)
        address = name + whole_path(path)
        expected.append((not listed.isdisjoint(domains_of(name))) + 2 * any(map(address.startswith, beginnings)))
    written = ["".join(url) for url in urls]
    found = scan_urls(view(written), table(entries, [host + path for host, path in paths]))
    assert found.bits.tolist() == expected
    assert found.valid.all()


@pytest.mark.parametrize(
    "url",
    [
        "http://münchen.de",
        "http://MÜNCHEN.DE/",
        "xn--mnchen-3ya.de",
        "XN--MNCHEN-3YA.de:443/x",
        "m%C3%BCnchen.de",
        "http://mu\u0308nchen.de",
        "http://münchen\u3002de./",
        "http://mün\u00adchen.de",
        "http://ｍünchen.de",
        "  https://a.b.münchen.de\n",
        "//user:pass@www.münchen.de:8080?x",
        "http:///münchen.de",
        "*.münchen.de",
        ".münchen.de",
    ],
)
def test_ways_to_write_a_host(url):
    if url == "http:///münchen.de":
        assert not scan_urls(view([url])).valid[0]  # no host
        return
    assert scan_urls(view([url]), table(["münchen.de"])).bits[0] == 1


@pytest.mark.parametrize("url", ["http://bad.com.org", "notbad.com", "http://ok.org/bad.com", "bad.com@ok.org", "com"])
def test_hosts_that_are_others(url):
    assert scan_urls(view([url]), table(["bad.com"])).bits[0] == 0


def test_an_address_has_no_parent_domains_and_a_fragment_is_no_path():
    assert scan_urls(view(["1.2.3.4", "a.2.3.4", "2.3.4"]), table(["2.3.4"])).bits.tolist() == [0, 1, 1]
    urls = ["a.com/x/y", "a.com/x#other", "a.com/#x", "a.com/x?#"]
    assert scan_urls(view(urls), table([], ["a.com/x#part"])).bits.tolist() == [2, 2, 0, 2]


HOSTLESS = ["", " ", "/", "//", "http://", "#", "?", "http://#", "@", ":80", "...", "[", "[]", "[::g]", "http://%2f/"]


@pytest.mark.parametrize("url", [*HOSTLESS, "a b.ü", "℀.com", "http://" + "ü" * 2_000_000 + "/x", None])
def test_urls_without_a_possible_host(url):
    found = scan_urls(view([url]), table(["bad.com"]))
    assert not found.valid[0]
    assert found.bits[0] == found.hosts[0] == found.paths[0] == 0


@given(st.lists(st.binary(max_size=30), max_size=6), st.binary(min_size=1, max_size=8))
def test_bytes_around_a_url_are_never_read(urls, filling):
    def scan(between: bytes):
        parts = [piece for url in urls for piece in (between, url)]
        bounds = np.cumsum([0, *map(len, parts)]).astype(np.int64)
        data = np.frombuffer(b"".join(parts) + between, np.uint8)
        return scan_urls(Utf8View(data, bounds[1:-1:2].copy(), bounds[2::2].copy()), table(["a.b"], ["a/b"]))

    for ours, others in zip(scan(b""), scan(filling), strict=True):
        assert ours.tolist() == others.tolist()


def test_a_long_url_takes_linear_time():
    urls = ["http://" + "a." * 1_000_000 + "bad.com", "http://bad.com/" + "x" * 2_000_000, "@" * 2_000_000 + "bad.com"]
    assert scan_urls(view(urls), table(["bad.com"], ["bad.com/x"])).bits.tolist() == [1, 3, 1]


def test_every_key_of_a_large_table_is_found():
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 1 << 63, 200_000, np.uint64) * np.uint64(2))
    domains = [f"d{n}.com" for n in range(50_000)]
    hosts = scan_urls(view(domains)).hosts
    assert len(np.unique(hosts)) == len(domains)
    every = np.unique(np.concatenate([keys, hosts]))
    found = scan_urls(view([*domains, *(f"e{n}.com" for n in range(50_000))]), make_table(every, np.ones_like(every)))
    assert found.bits.tolist() == [1] * 50_000 + [0] * 50_000
