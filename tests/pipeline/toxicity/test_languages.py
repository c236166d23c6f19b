import pytest

from pipeline.toxicity.languages import find_list

LDNOOBW = "ar cs da de en eo es fa fi fil fr fr-CA-u-sd-caqc hi hu it ja kab ko nl no pl pt ru sv th tlh tr zh".split()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *[(name, name) for name in LDNOOBW],
        ("eng_Latn", "en"),
        ("cmn_Hani", "zh"),
        ("cmn_Hant", "zh"),
        ("zho_Hans", "zh"),
        ("zh-Hant-TW", "zh"),
        ("yue", "zh"),
        ("wuu", "zh"),
        ("deu_Latn", "de"),
        ("ger", "de"),
        ("arb_Arab", "ar"),
        ("arz", "ar"),
        ("pes_Arab", "fa"),
        ("nb", "no"),
        ("nob_Latn", "no"),
        ("nn", "no"),
        ("nno", "no"),
        ("tl", "fil"),  # lid.176's code for what the lists call Filipino
        ("tgl_Latn", "fil"),
        ("kab_Latn", "kab"),
        ("kor_Hang", "ko"),
        ("jpn_Jpan", "ja"),
        ("fr-CA", "fr"),
        ("FR_ca_U_SD_CAQC", "fr-CA-u-sd-caqc"),
        ("EN", "en"),
        ("und", None),
        ("xx", None),
        ("", None),
        ("uk", None),
        ("jav_Latn", None),
        ("nds", None),
    ],
)
def test_the_list_of_a_code(code, expected):
    assert find_list(code, LDNOOBW) == expected
    assert find_list(code, LDNOOBW[::-1]) == expected


def test_lists_may_be_named_by_other_codes():
    assert find_list("en", ["eng_Latn"]) == "eng_Latn"
    assert find_list("eng_Latn", ["eng"]) == "eng"
    assert find_list("fr", ["fr-CA"]) is None  # a list for one region
    assert find_list("yue_Hant", ["zh", "yue"]) == "yue"
    assert find_list("nn", ["no", "nn"]) == "nn"
    assert find_list("en", []) is None
