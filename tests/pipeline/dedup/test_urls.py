from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.dedup.urls import INDEX_NAMES, TRACKING, TRACKING_PREFIXES, canonical_urls, url_digests
from tests.pipeline.dedup.corpora import compiling

RESERVED = ":/?#[]@!$&'()*+,;="
PIECES = [
    *"/?#&=;:@.%[]!+|é中 \t\r\n",
    *(
        "//",
        "/./",
        "/../",
        "..",
        "www.",
        "WWW.",
        "a",
        "B",
        "com",
        "example.org",
        "index.html",
        "index.php",
        "Index.HTM",
    ),
    *("%2e", "%2F", "%7euser", "%c3%A9", "%4", "%zz", ";jsessionid=1", ";JSESSIONID=x;v=1", ":80", ":443", ":8080"),
    *("utm_source=x", "UTM_medium=", "gclid=1", "gclid", "gclidx=1", "PHPSESSID=ab", "b=2&a=1", "a=1", "#!state", "u@"),
]
URLS = st.builds(
    "{}://{}{}".format,
    st.sampled_from(["http", "HTTPS", "ftp", "h2+x"]),
    st.sampled_from(["a.com", "www.A.com:443", "", "u:p@host.:80", "[::1]:8080"]),
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join),
) | st.text(max_size=20)


def normalised(text: str) -> str:
    """Percent-encoding by urllib: decoded where unreserved, else encoded."""
    parts = re.split("(%[0-9A-Fa-f]{2})", text)
    parts[1::2] = [quote(unquote_to_bytes(part), safe="") for part in parts[1::2]]
    parts[::2] = [quote(part, safe=RESERVED) for part in parts[::2]]
    return "".join(parts)


def host_and_port(authority: str, scheme: str) -> str | None:
    matched = re.fullmatch(r"(\[[^\]]*\]|(?!\[)[^:]*)(:[0-9]*)?", authority.rpartition("@")[2])
    if matched is None:
        return None
    host = re.sub("%[0-9A-F]{2}|.", lambda m: m[0] if m[0][0] == "%" else m[0].lower(), normalised(matched[1]))
    host = re.sub(r"^(www\.)+(?=.*\.)", "", host.rstrip(".")) if host.count(".") > 1 else host.rstrip(".")
    port = matched[2] or ""
    return host + ("" if port == ":" or (scheme == "http" and port in (":80", ":443")) else port) if host else None


def resolved(path: str) -> str:
    segments: list[str] = []
    for segment in path.split("/")[1:]:
        segment = re.sub("(?i);jsessionid=[^;]*", "", normalised(segment))
        if segment == "..":
            del segments[-1:]
        elif segment != ".":
            segments.append(segment)
    while segments and segments[-1] in ("", *INDEX_NAMES):
        segments.pop()
    return "".join("/" + segment for segment in segments)


def tracking(parameter: str) -> bool:
    key = parameter.partition("=")[0].lower()
    return key in TRACKING or key.startswith(TRACKING_PREFIXES)


def plain(url: str) -> str | None:
    """The rules stated over the expression of RFC 3986, appendix B."""
    url = re.sub("[\t\r\n]", "", url.strip("".join(map(chr, range(33)))))
    matched = re.fullmatch(r"(?s)([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", url)
    if matched is None:
        return None
    scheme, authority, path, query, fragment = matched.groups(default="")
    scheme = "http" if scheme.lower() == "https" else scheme.lower()
    host = host_and_port(authority, scheme)
    if host is None:
        return None
    parameters = sorted(part for part in map(normalised, query.split("&")) if part and not tracking(part))
    result = f"{scheme}://{host}{resolved(path)}"
    result += "?" + "&".join(parameters) if parameters else ""
    return result + ("#" + normalised(fragment) if fragment.startswith("!") and fragment != "!" else "")


@compiling
@given(st.lists(URLS, max_size=4))
@example(["http://www.www.a.com", "http://www.com", "http://..", "http://a/%%341", "http://%77ww.%41.com", "x"])
def test_canonical_urls_are_those_of_the_plain_statement(urls: list[str]):
    found = canonical_urls(pa.array(urls, pa.large_string()))
    assert found.type == pa.large_string()
    assert found.to_pylist() == [plain(url) for url in urls]
    assert canonical_urls(found).equals(found)  # twice changes nothing


@compiling
@given(st.lists(URLS | st.none(), max_size=6))
def test_digests_are_equal_just_where_canonical_urls_are(urls: list[str | None]):
    array = pa.array(urls, pa.string())
    digests, found = url_digests(array)
    assert (digests.dtype, digests.shape) == (np.uint64, (len(urls), 2))
    forms = canonical_urls(array).to_pylist()
    assert found.tolist() == [form is not None for form in forms]
    for column in (digests[:, 0], digests[:, 1]):
        keys = {form: int(key) for form, key in zip(forms, column, strict=True)}
        assert [keys[form] for form in forms] == column.tolist()
        assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        (
            "  HTTPS://User:pw@WWW.Example.COM:443/a/./b/../c/?b=2&a=1&utm_source=x#part\n",
            "http://example.com/a/c?a=1&b=2",
        ),
        ("http://example.com", "http://example.com"),
        ("http://example.com/index.html", "http://example.com"),
        ("http://example.com./docs/index.php?page=2&gclid=1", "http://example.com/docs?page=2"),
        ("http://example.com/%7Ejo%c3%a9/a%2fb", "http://example.com/~jo%C3%A9/a%2Fb"),
        ("http://example.com/~joé/a%2Fb", "http://example.com/~jo%C3%A9/a%2Fb"),
        ("http://example.com/cart;jsessionid=0A1B;v=2/x?PHPSESSID=1", "http://example.com/cart;v=2/x"),
        ("http://example.com/?gclidx=1&GCLID=2&gcli&utm_=3&utm=4", "http://example.com?gcli&gclidx=1&utm=4"),
        ("http://exam\tple.c\r\nom/", "http://example.com"),
        ("http://example.com/app#!/inbox", "http://example.com/app#!/inbox"),
        ("http://example.com:8080/A", "http://example.com:8080/A"),
        ("ftp://Example.com:21/Pub/", "ftp://example.com:21/Pub"),
        ("http://[2001:DB8::1]:80/x", "http://[2001:db8::1]/x"),
        ("http://www.com/", "http://www.com"),
        ("http://example.com:port/", None),
        ("http:///path", None),
        ("mailto:jo@example.com", None),
        ("//example.com/", None),
        ("example.com/page", None),
        ("", None),
    ],
)
def test_each_rule(url: str, canonical: str | None):
    assert canonical_urls(pa.array([url], pa.large_string())).to_pylist() == [canonical]


def test_each_byte_changes_both_halves_of_a_digest():
    url = "http://example.com/0123456789/0123456789"
    changed = [url[:at] + "x" + url[at + 1 :] for at in range(19, len(url))]
    digests, _ = url_digests(pa.array([url, *changed, url + "x"]))
    assert len(np.unique(digests[:, 0])) == len(np.unique(digests[:, 1])) == len(digests)


def test_chunks_slices_and_many_rows():
    urls = [f"https://www.example.com/{number % 7000}/?utm_id={number}" for number in range(20_000)]
    array = pa.array(["http://dropped.com", *urls, None], pa.large_string())[1:]
    chunked = pa.chunked_array([array[:5], array[5:5], array[5:]])
    digests, found = url_digests(chunked)
    assert found.tolist() == [True] * 20_000 + [False]
    assert len(np.unique(digests[:-1, 0])) == len(np.unique(digests[:-1, 1])) == 7000
    assert not digests[-1].any()
    assert canonical_urls(chunked).to_pylist() == [*(plain(url) for url in urls), None]


def test_a_url_of_many_parameters_is_sorted():
    numbers = np.random.default_rng(1).permutation(200_000)
    (url,) = canonical_urls(pa.array(["http://a.com?" + "&".join(map(str, numbers))])).to_pylist()
    assert url == "http://a.com?" + "&".join(sorted(map(str, numbers)))


def test_nothing_but_text_is_taken():
    with pytest.raises(TypeError, match="int64"):
        url_digests(pa.array([1]))
    assert len(canonical_urls(pa.chunked_array([], pa.string()))) == 0
