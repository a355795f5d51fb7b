"""Named failures. Every message says what was wrong, where, and what to write instead."""

__all__ = [
    "BiasedEstimator",
    "BranchMismatch",
    "ChoiceShapeError",
    "ChoiceTypeError",
    "CustomRuleIgnored",
    "DifferentiatedSite",
    "DiscontinuousObjective",
    "DuplicateAddress",
    "EstimatedDensity",
    "FactorShapeError",
    "ForeignStatement",
    "IntegerParameter",
    "InvalidAddress",
    "InvalidControlVariate",
    "InvalidData",
    "InvalidDistribution",
    "InvalidKey",
    "InvalidMask",
    "InvalidObjective",
    "InvalidOptimizer",
    "InvalidSetting",
    "InvalidState",
    "MissingChoice",
    "MissingDependency",
    "NonFiniteUpdate",
    "NonScalarObjective",
    "NotTrainable",
    "ObservedChoice",
    "ObservedGuide",
    "ObservedMarginal",
    "PartialObservation",
    "ProgramError",
    "ProposalMismatch",
    "ReverseModeLoop",
    "SampleOutsideTransformation",
    "SiteFailure",
    "SupportMismatch",
    "TooManyJointStates",
    "UncoupledSite",
    "UndrawableSite",
    "UnknownAddress",
    "UnmatchedPattern",
    "UnscorableSite",
    "UnsuitableEstimator",
    "UnsupportedControlFlow",
    "UnusedChoice",
]


class ProgramError(Exception):
    """Base of every error this package raises on purpose."""


class SampleOutsideTransformation(ProgramError):
    """A `sample` statement ran with no transformation to give it meaning."""


class ForeignStatement(ProgramError, TypeError):
    """A statement or a handler of NumPyro in or around a program, where it has no effect."""


class InvalidAddress(ProgramError, ValueError):
    """An address is not a non-empty string."""


class InvalidDistribution(ProgramError, TypeError):
    """The second argument of `sample` does not follow the distribution protocol."""


class SiteFailure(ProgramError, RuntimeError):
    """The code of a site's distribution or estimator raised an error of its own."""


class InvalidKey(ProgramError, TypeError):
    """The first argument of a seeded function is not a single PRNG key."""


class DuplicateAddress(ProgramError, ValueError):
    """Two sites of one program share an address."""


class MissingChoice(ProgramError, KeyError):
    """A site has no value among the choices."""

    __str__ = Exception.__str__


class UnusedChoice(ProgramError, KeyError):
    """A choice names no site of the program."""

    __str__ = Exception.__str__


class ObservedChoice(ProgramError, ValueError):
    """A choice would override the data of an observed site."""


class ChoiceShapeError(ProgramError, ValueError):
    """A choice or an observation has another shape than its site."""


class ChoiceTypeError(ProgramError, TypeError):
    """A choice or an observation has a dtype that its site cannot take."""


class UncoupledSite(ProgramError, TypeError):
    """A change reaches a site whose distribution does not say how its value follows from noise."""


class InvalidMask(ProgramError, ValueError):
    """An `obs_mask` that is not of booleans, or of a shape that its site does not have."""


class UndrawableSite(ProgramError, NotImplementedError):
    """A site was to be drawn whose distribution has no sampler: it can only be scored."""


class UnscorableSite(ProgramError, NotImplementedError):
    """A value was to be scored whose distribution knows the density of its own draws alone."""


class UnknownAddress(ProgramError, KeyError):
    """An address to keep names no site of the program."""

    __str__ = Exception.__str__


class EstimatedDensity(ProgramError, ValueError):
    """A density is estimated by another law than the one that what reads it needs."""


class PartialObservation(ProgramError, ValueError):
    """Part of a compound site, or of one event, is observed, and nothing can draw the rest."""


class ProposalMismatch(ProgramError, ValueError):
    """The choices of an algorithm's proposal are not the hidden choices of its target."""


class ObservedMarginal(ProgramError, ValueError):
    """A marginal of observed sites, or one that keeps nothing, was simulated and not scored."""


class ObservedGuide(ProgramError, ValueError):
    """A guide or a proposal has an observed site."""


class SupportMismatch(ProgramError, ValueError):
    """A guide draws a choice where the model, which scores it, has no density."""


class FactorShapeError(ProgramError, ValueError):
    """A factor of `scale` or a flag of `mask` does not broadcast against a site's density."""


class BranchMismatch(ProgramError, TypeError):
    """The branches of a `cond` disagree about the shape or dtype of one address."""


class UnsupportedControlFlow(ProgramError, NotImplementedError):
    """A site stands under a primitive that the asked-for meaning cannot enter."""


class ReverseModeLoop(ProgramError, ValueError):
    """Reverse-mode differentiation reached a `while_loop`, such as one that contains sites."""


class DifferentiatedSite(ProgramError, TypeError):
    """A site whose randomness was not discharged was differentiated."""


class NonScalarObjective(ProgramError, TypeError):
    """An objective returned what is no real scalar; or several, where one is asked for."""


class InvalidControlVariate(ProgramError, ValueError):
    """A control variate for a site that has no score, or that its value does not fit."""


class UnsuitableEstimator(ProgramError, TypeError):
    """A gradient estimator was given a distribution it is not right for."""


class BiasedEstimator(ProgramError, ValueError):
    """An estimator, or its second derivative, is biased, and `allow_biased=True` was not said."""


class TooManyJointStates(ProgramError, ValueError):
    """Exact expansion would need more joint states than the stated limit."""


class UnmatchedPattern(ProgramError, KeyError):
    """A pattern of `with_estimators` matches no site."""

    __str__ = Exception.__str__


class InvalidObjective(ProgramError, TypeError):
    """An objective cannot be called as `fit` calls it."""


class InvalidOptimizer(ProgramError, TypeError):
    """The optimizer given to `fit` is not an Optax gradient transformation."""


class InvalidData(ProgramError, TypeError):
    """The data given to `fit` are not arrays with one leading axis in common."""


class InvalidSetting(ProgramError, ValueError):
    """A setting has a value that it cannot take."""


class InvalidState(ProgramError, TypeError):
    """The update of a `ppl.State` returned something of another structure."""


class MissingDependency(ProgramError, ImportError):
    """An optional package is not installed."""


class NotTrainable(ProgramError, TypeError):
    """The parameters given to `fit` have no floating-point array to train."""


class NonFiniteUpdate(ProgramError, FloatingPointError):
    """Training met a gradient or an objective that is not finite."""


class IntegerParameter(UserWarning):
    """An integer among the parameters of `fit` is not trained, and a gradient would reach it."""


class DiscontinuousObjective(UserWarning):
    """A reparameterised value is rounded, counted or branched upon: the gradient may be biased."""


class CustomRuleIgnored(UserWarning):
    """A `custom_jvp`, `custom_vjp` or `custom_vmap` function has sites: its rule is not used."""
