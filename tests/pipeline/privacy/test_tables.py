"""What is and is not a match, kind by kind."""

from __future__ import annotations

from datetime import date

import pytest

from pipeline.privacy.config import PrivacyConfig
from tests.pipeline.privacy.reference import chinese, found, luhn_digit

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
KEY = "MIIEpAIBAAKCAQEA7bq2\nrS3xkV0+/aQ==\n"
RSA = f"-----BEGIN RSA PRIVATE KEY-----\n{KEY}-----END RSA PRIVATE KEY-----"
RANDOM = "q7Zk2Wm9Xc4Vb1Np8Ls5Td3Rf6Yg0Hj2Kq7Z"

# Text, with the match in double brackets.
POSITIVE = {
    "email": [
        "write to [[jane.doe+news@mail.example-site.co.uk]].",
        "<[[o'brien@host.ie]]>, ([[x_y@z.io]]) and mailto:[[a@b.museum]]?subject=1",
        "邮箱[[zhang3@qq.com]]，谢谢",
        "邮箱：[[ｚｈａｎｇ＠ｑｑ．ｃｏｍ]]。",
        "[[13812345678@163.com]]",
        "[[kim@xn--bcher-kva.xn--p1ai]] ",
    ],
    "ip_address": [
        "from [[91.12.4.177]]:8080, GET http://[[185.60.112.35]]/x",
        "ping [[8.8.4.4]]",
        "range [[91.10.0.1]]-[[91.10.0.9]]",
        "服务器地址[[123.45.67.89]]，端口",
        "[[2a00:1450:4001:81b::200e]] and [[2606:2800:220:1:248:1893:25c8:1946]].",
        "http://[[[2a00:1450::5]]]/",
        "[[2a00::91.12.4.177]]",
    ],
    "phone": [
        "[[+44 20 7946 0958]], [[+44 (0)20 7946 0958]], [[+8613812345678]]",
        "call [[(415) 627-3390]] or [[415.627.3390]] or [[1-415-627-3390]]",
        "[[415-627-3390 x12]] or [[415-627-3390 ext. 7]]",
        "电话[[13812345678]]，手机[[138 1234 5678]]，座机[[010-62751234转8]]",
        "[[１３８１２３４５６７８]]",
        "[[03.93.92.16.85]] et [[03 93 92 16 85]]",
        "Rufen Sie [[030 12345678]] oder [[0341/8387176]]",
        "[[07700 900123]], [[020 7946 0958]]",
        "(sp) [[(11) 98765-4321]]",
        "Tel: [[467 3395]], fax [[467-3396]]",
        "Handy [[01511234567]]",
        "[[0046 8 928 571 38]]",
    ],
    "credit_card": [
        "paid with [[4111 1111 1111 1111]] and [[5555-5555-5555-4444]]",
        "[[378282246310005]], [[3782 822463 10005]], [[30569309025904]]",
        "卡号[[6222021234567890128]]",
        "card no. [[4222222222222]]",
    ],
    "iban": [
        "[[GB82 WEST 1234 5698 7654 32]] and [[DE89370400440532013000]]",
        "[[gb82west12345698765432]]；[[NO93-8601-1117-947]]",
        "账号[[ＤＥ８９３７０４００４４０５３２０１３０００]]",
    ],
    "national_id": [
        "身份证号[[11010519491231002X]]，[[11010519491231002x]]",
        "SSN [[219-09-9999]]; social security [[219 09 9999]], ssn [[219099999]]",
        "CPF [[529.982.247-25]]",
        "DNI [[12345678Z]], NIE [[X1234567L]] o [[X-1234567-L]]",
        "[[RSSMRA85T10A562S]]",
        "PESEL [[44051401359]], BSN [[111222333]]",
    ],
    "secret": [
        "[[AKIAIOSFODNN7EXAMPLQ]] in the log",
        f"[[ghp_{RANDOM}]] [[npm_{RANDOM}]] [[glpat-{RANDOM[:20]}]]",
        f"[[github_pat_{RANDOM}_{RANDOM}]]",
        f"[[xoxb-{RANDOM}]], [[AIza{RANDOM[:35]}]], [[hf_{RANDOM[:34]}]], [[sk-ant-api03-{RANDOM}]]",
        f"[[sk_live_{RANDOM[:24]}]] [[pypi-{RANDOM}{RANDOM}]] [[SG.{RANDOM[:22]}.{(RANDOM * 2)[:43]}]]",
        f"Bearer [[{JWT}]]",
        f"[[{RSA}]]\nafter",
        'password = "[[hunter2Xy9]]"',
        "DB_PASSWORD='[[s3cr3t-Pa55]]' and apiToken: \"[[9f8e7d6c5b4a]]\"",
        f"API_KEY={'[['}{RANDOM}]]\nnext",
        '{"client_secret": "[[Zx81Qw7-Er5]]"}',
        "postgres://app:[[S3cretPw]]@db.internal/x",
    ],
}
NEGATIVE = {
    "email": [
        "logo@2x.png",
        "git@github.com:user/repo",
        "me@localhost and a@b and @handle",
        "left-pad@1.3.0",
        "someone@example.com, x@shop.example, y@z.invalid",
        "a..@b.com",
        "x" * 65 + "@long.com",
        "name@-bad.com, name@bad-.com",
        "@@@ @. .@. a@.com a@b..c",
    ],
    "ip_address": [
        "version 91.12.4.177 and v91.12.4.178",
        "libc-91.12.4.177, 91.12.4.177-5, Chrome/114.0.0.0, name/91.12.4.1",
        "section 5.1.2.3 of, upgrade to 1.2.3.4",
        "10.0.0.1 127.0.0.1 192.168.1.1 172.16.9.9 169.254.1.1 192.0.2.77 198.51.100.5 203.0.113.9 224.0.0.251",
        "256.1.1.1 1.2.3 91.12.4.177.5 091.12.4.17 91.12.4.1777",
        "::1 fe80::1 fc00::1 2001:db8::1 std::abc a::b 12:30:45 ff02::fb",
        "hg graft 2085::2093 and 2a00::",
        "00:1b:44:11:3a:b7 and 1:2:3:4:5:6:7:8:9",
    ],
    "phone": [
        "total fn calls 1951294",
        "2024-05-17, 17.05.2024, 05/17/2024, 20240517, 2024-05-17 12:30:45",
        "1,234,567 and 12345678 and 1.234.567,89 and 3.14159265358979",
        "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISSN 2049-3630",
        "$415 627 3390, €4156273390, £13812345678",
        "id 1381234567890123, 20138123456789, x13812345678, 13812345678x",
        "https://host.org/posts/13812345678/comments and status/13812345678",
        "0.13812345678 13812345678.25 13,812,345,678 13812345678%",
        "550e8400-e29b-41d4-a716-446655440000",
        "vol. 12 (3) 4233-4290; pp. 1123-1188; 1914-1918",
        "call me in 2024 or 1999-2000",
        "212-555-0123",
        "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        "01 12 23 34 41 49",
        "a+1234567890 = b",
        "l.184.179c.005.217.067.672.236 1.372",
        "QQ群123456789，电话订阅号，QQ 12345678",
    ],
    "credit_card": [
        "4111 1111 1111 1112, 4111111111111112",
        "1234567812345670",
        "EAN 4006381333931",
        "post 5876237249236036428",
        "0.4111111111111111, x4111111111111111, 4111111111111111x, host/4111111111111111/",
        "4111 1111-1111 1111",
        "4111-1111-1111-1111-1111",
    ],
    "iban": ["GB82 WEST 1234 5698 7654 33", "ZZ82 1234 5678 9012", "XGB82WEST12345698765432", "DE8937040044053201300"],
    "national_id": [
        "110105194912310021, 110105194902310020, 99010519491231002X",
        "000-12-3456, 666-12-3456, 900-12-3456, 219-00-9999, 219-09-0000, 219099999",
        "529.982.247-26, 52998224725, 111.111.111-11",
        "12345678A, 12345678L, x12345678Z, 12345678Zx",
        "RSSMRA85T10A562T",
        "111222333 and 44051401359",
    ],
    "secret": [
        "AKIAIOSFODNN7 and AKIAAAAAAAAAAAAAAAAA and AKIAIOSFODNN7EXAMPLE2",
        "sk-learn-and-other-packages-of-python, ask-someone-else-about-it-12",
        'password = "changeme1", token: "<your-token-1>", api_key = "${API_KEY_1}", secret = "xxxxxxxx1"',
        "password: please choose one, token = get_token(1), tokens: 12345678901234567890",
        "The token: a word of a text. The secret: nobody knows",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.foo",
        "https://host:8080/@user and http://user@host.tld:80",
        'my_footoken = "9f8e7d6c5b4a"',
    ],
}


def _marked(text: str) -> tuple[str, list[str]]:
    parts = text.replace("[[[", "[\0").replace("]]]", "\1]").replace("[[", "\0").replace("]]", "\1").split("\0")
    matches = [part.split("\1")[0] for part in parts[1:]]
    return "".join(part.replace("\1", "", 1) for part in parts), matches


@pytest.mark.parametrize(("kind", "marked"), [(kind, text) for kind, texts in POSITIVE.items() for text in texts])
def test_these_are_found(kind: str, marked: str):
    text, matches = _marked(marked)
    assert found(text) == [(kind, match) for match in matches]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NEGATIVE.items() for text in texts])
def test_these_are_not(kind: str, text: str):
    assert [match for match in found(text) if match[0] == kind] == []


def test_special_addresses_count_where_asked():
    config = PrivacyConfig(public_addresses_only=False)
    text = "10.0.0.71, fe80::1:2:3, 192.168.12.44"
    assert [match for _, match in found(text, config)] == text.split(", ")


def test_the_leftmost_wins_then_the_longest_then_the_first_kind():
    assert found("13812345678@163.com 13812345678") == [("email", "13812345678@163.com"), ("phone", "13812345678")]
    token = 'token = "ghp_' + RANDOM + '"'
    assert found(token) == [("secret", "ghp_" + RANDOM)]
    assert found("http://u:p4ssW0rd.x@host.com/") == [("secret", "p4ssW0rd.x")]
    # A Chinese identity number whose check digit is Luhn's too, after a word for cards: one span, the earlier kind.
    both = next(
        number
        for order in range(1000)
        if (number := chinese("440308", date(1990, 1, 1), order))[-1] == luhn_digit(number[:-1])
    )
    assert found(f"card {both}") == [("national_id", both)]


def test_a_kept_kind_still_holds_its_span():
    config = PrivacyConfig(email="keep")
    assert found("13812345678@163.com 13812345679", config) == [("phone", "13812345679")]
