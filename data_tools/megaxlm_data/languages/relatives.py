"""Languages so close that identifiers, and sometimes their writers, take one for another.

A document declared Bosnian and found Croatian is no reason to distrust the corpus. Each line is a
group; a language may stand in several, and closeness is not passed on from one group to the next.
The groups come from what the libraries confuse (`benchmarks/benchmark_identify.py` lists that) and
from the macrolanguages of ISO 639-3.
"""

from __future__ import annotations

from collections.abc import Iterable

from megaxlm_data.languages.codes import UNDETERMINED, base_language, normalize_code

_GROUPS = """
hr bs sr cnr
id ms zlm bjn min jak zsm btj
no nn da
cs sk
zh yue wuu hak nan gan hsn cjy cdo lzh
hi ne mr sa bho mai mag awa hne gom kok new doi bgc anp
bn as syl
ur pnb skr lah
pa pnb
fa ps glk mzn
ar arz ary acm acq aeb ajp apc ars afb apd arq ayl
ku ckb sdh lrc
bg mk
uk rue
pt gl mwl kea
es gl ast an ext lad pap cbk
ca oc es
fr wa pcd frp
it vec lmo scn nap lij pms co sc fur egl eml
ro rup
nl af li vls zea fy
de nds gsw lb bar ksh pfl
en sco pcm kri
is fo
fi olo vep krl fkv
et vro
lv ltg
se smn sms sma smj
cy kw br
ga gd gv
tr az gag azb crh
tt ba
kk ky kaa nog alt
uz uzs
mn bxr xal
jv su ban mad
tl ceb war hil pam bik bcl ilo pag
mg bhr xmv
am ti
so ymm gex jii
rw rn
zu xh ss nr nd
st tn nso loz
ts ve
ln kg ktu lua sg
lg xog nyn ttj cgg myx nuj
ki kam mer
sn ny tum
sw swc zdj swb wni
ff fuv fuf fuc fub
qu quz qug quh qul qvh ay
gn gnw gui
ht gcf gcr mfe crs acf
dz bo
my mnw rki
iu kl
"""


class Relatives:
    """Says whether two languages are close.

    Args:
        more: Further groups of codes.
    """

    def __init__(self, more: Iterable[Iterable[str]] = ()) -> None:
        groups = [line.split() for line in _GROUPS.split("\n") if line]
        groups += [[normalize_code(code) for code in group] for group in more]
        self._groups: dict[str, set[int]] = {}
        for number, group in enumerate(groups):
            for code in group:
                self._groups.setdefault(base_language(code), set()).add(number)

    def are_close(self, a: str, b: str) -> bool:
        """Tells whether two normalised codes stand in one group, or are one language."""
        first, second = base_language(a), base_language(b)
        if first == UNDETERMINED or second == UNDETERMINED:
            return False
        if first == second:
            return True
        return bool(self._groups.get(first, set()) & self._groups.get(second, set()))
