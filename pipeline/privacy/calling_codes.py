"""Facts of numbering plans: country calling codes, the ranges of Chinese mobile numbers, national groupings."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

# ITU-T E.164, list of assigned country codes (2016, with amendments). Spare codes are left out.
CALLING_CODES: Final = (
    "1 20 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 237 238 239 240 241 "
    "242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266 267 268 269 27 "
    "290 291 297 298 299 30 31 32 33 34 350 351 352 353 354 355 356 357 358 359 36 370 371 372 373 374 375 376 377 "
    "378 380 381 382 383 385 386 387 389 39 40 41 420 421 423 43 44 45 46 47 48 49 500 501 502 503 504 505 506 507 "
    "508 509 51 52 53 54 55 56 57 58 590 591 592 593 594 595 596 597 598 599 60 61 62 63 64 65 66 670 672 673 674 675 "
    "676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 7 800 808 81 82 84 850 852 853 855 856 86 870 "
    "878 880 881 882 883 886 888 90 91 92 93 94 95 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 "
    "977 979 98 992 993 994 995 996 998"
)
# Ministry of Industry and Information Technology, number segments in use: the first three digits.
CHINESE_MOBILE: Final = (
    "130 131 132 133 134 135 136 137 138 139 145 146 147 148 149 150 151 152 153 155 156 157 158 159 162 165 166 167 "
    "170 171 172 173 174 175 176 177 178 180 181 182 183 184 185 186 187 188 189 190 191 192 193 195 196 197 198 199"
)
# Sizes of the groups of national numbers that begin with the trunk prefix 0 (ITU-T E.123 and the national plans):
# France 2-2-2-2-2; the United Kingdom 5-6, 5-3-3, 3-4-4, 4-3-4; Switzerland 3-3-2-2; Belgium 4-2-2-2; the Netherlands,
# Germany, Italy and Austria 2 to 5 and the rest; Australia 2-4-4, 4-3-3; Japan 2-4-4, 3-4-4; China 3-8, 4-7, 4-8.
TRUNK_GROUPS: Final = (
    22222,
    56,
    533,
    344,
    434,
    433,
    4222,
    3322,
    334,
    47,
    46,
    45,
    37,
    38,
    36,
    48,
    28,
    244,
    343,
    4322,
    442,
    55,
    5222,
    542,
    324,
    235,
    2322,
)


def calling_codes() -> NDArray[np.uint8]:
    """The digits of the calling code by a number's first three digits: (1000,), 0 where there is none."""
    table = np.zeros(1000, np.uint8)
    for code in CALLING_CODES.split():
        width = 10 ** (3 - len(code))
        table[int(code) * width : (int(code) + 1) * width] = len(code)
    return table


def chinese_mobile() -> NDArray[np.uint8]:
    """Whether three digits open a Chinese mobile number: (1000,)."""
    table = np.zeros(1000, np.uint8)
    table[[int(code) for code in CHINESE_MOBILE.split()]] = 1
    return table


def trunk_groups() -> NDArray[np.int64]:
    """TRUNK_GROUPS, sorted."""
    return np.array(sorted(TRUNK_GROUPS), np.int64)
