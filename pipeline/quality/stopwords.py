"""Stop words by language, for Gopher's rule that a document has at least two of them.

The English list is the published one (Rae et al. 2021, A.1.1). The others are of its kind: some of the most frequent
function words of the language, so frequent that hardly a passage of 50 words of prose lacks two of them (the tests
measure that). In Chinese and Japanese they are single characters, as the scan's words are. A language that is not
listed has no such rule: so Thai, Lao, Khmer and Burmese, whose words the scan does not find, and languages that put
their particles onto words, such as Korean and Hebrew.
"""

from typing import Final

_LISTS: Final = {
    "en": "the be to of and that have with",
    "ar": "في من على إلى أن عن هذا التي الذي مع لا ما كان ذلك بعد هو هي كما كل بين أو قد",
    "bg": "на и в за от се да с е по са не",
    "ca": "de la i el que a les en els per un una",
    "cs": "a v na se je že s z do o i to",
    "da": "og i at det er en til af på for med som",
    "de": "der die und das in den von zu mit ist nicht ein",
    "el": "και το του η της να με την για που από",
    "es": "de la que el en y los a las un por con",
    "fa": "و در به از که این را با است برای آن",
    "fi": "ja on ei että se oli hän ovat mutta kun tai myös joka sen kuin ole vain niin mukaan hänen sekä voi",
    "fr": "de la le et les des en un du une que est",
    "hi": "के में की है और से का को पर ने कि",
    "hr": "i u je na se za da su od s kao što",
    "hu": "a az és hogy nem is egy van de meg ez volt",
    "id": "yang dan di dari untuk dengan ini pada dalam itu adalah tidak",
    "it": "di e la il che in un per del a della con",
    "ja": "の に は を た が で て と し れ も",
    "nl": "de van het een en in is dat op te zijn met",
    "no": "og i det er en til på for av at som med",
    "pl": "w i na z do się nie to że o jest po",
    "pt": "de a o que e do da em um para com os",
    "ro": "de și în la a cu o pe din care nu un",
    "ru": "и в не на с что по как а это из к",
    "sk": "a v na sa je že s z do o i to",
    "sr": "и у је на се за да су од као i u je na se za da su od kao",
    "sv": "och i att det en som är på av för med till",
    "tr": "ve bir bu için ile da de olarak daha en çok ama gibi ne var kadar sonra olan değil ki o",
    "uk": "і в на не з що до та як у це за",
    "vi": "và của là có cho các được trong một không với người những này đã để khi từ",
    "yue": "的 嘅 係 喺 咗 唔 有 在 一 啲 佢 和",
    "zh": "的 是 了 在 不 和 有 这 這 一 我 他 与 為 为",
}

# The codes of GlotLID for the same languages.
_GLOTLID: Final = (
    "arb_Arab bul_Cyrl cat_Latn ces_Latn dan_Latn deu_Latn ell_Grek eng_Latn spa_Latn fas_Arab fin_Latn "
    "fra_Latn hin_Deva hrv_Latn hun_Latn ind_Latn ita_Latn jpn_Jpan nld_Latn nob_Latn pol_Latn por_Latn "
    "ron_Latn rus_Cyrl slk_Latn srp_Cyrl swe_Latn tur_Latn ukr_Cyrl vie_Latn yue_Hani cmn_Hani"
)
_LID176: Final = (
    "ar bg ca cs da de el en es fa fi fr hi hr hu id it ja nl no pl pt ro ru sk sr sv tr uk vi yue zh"  # as above
)

STOP_WORDS: Final[dict[str, tuple[str, ...]]] = {
    language: tuple(dict.fromkeys(words.split())) for language, words in _LISTS.items()
}
STOP_WORDS.update({alias: STOP_WORDS[code] for alias, code in zip(_GLOTLID.split(), _LID176.split(), strict=True)})
