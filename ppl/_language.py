"""The public names of `ppl`, each from its home; but for training, which brings Optax."""

from . import errors as errors
from . import extend as extend
from ._algorithms.marginal import marginal as marginal
from ._algorithms.marginal import normalize as normalize
from ._distributions.log_sum_exp import log_sum_exp as log_sum_exp
from ._expectation import expectation as expectation
from ._expectation import log_expectation as log_expectation
from ._ir.address import flatten_choices as flatten_choices
from ._ir.address import nest_choices as nest_choices
from ._ir.control_variate import control_variate as control_variate
from ._ir.estimator import Reparameterized as Reparameterized
from ._ir.estimator import ScoreFunction as ScoreFunction
from ._ir.fresh_key import fresh_key as fresh_key
from ._ir.sample import sample as sample
from ._ir.state import State as State
from ._meanings.counterfactual import counterfactual as counterfactual
from ._meanings.rewrite import bounded as bounded
from ._meanings.rewrite import condition as condition
from ._meanings.rewrite import frozen as frozen
from ._meanings.rewrite import intervene as intervene
from ._meanings.rewrite import mask as mask
from ._meanings.rewrite import scale as scale
from ._meanings.rewrite import scope as scope
from ._meanings.rewrite import uncondition as uncondition
from ._meanings.rewrite import with_estimators as with_estimators
from ._meanings.seed import seed as seed
from ._meanings.show import show as show
from ._meanings.sites import SiteInfo as SiteInfo
from ._meanings.sites import sites as sites
from ._meanings.trace import Trace as Trace
from ._meanings.trace import log_density as log_density
from ._meanings.trace import replay as replay
from ._meanings.trace import simulate as simulate
from ._meanings.trace import within_support as within_support
from ._walk import vmap as _vmap  # noqa: F401  (installs the batching of sites in control flow)
from ._walk.site_record import SiteRecord as SiteRecord
