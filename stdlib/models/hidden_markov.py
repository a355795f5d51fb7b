"""The discrete hidden Markov model: a chain of states, each seen through a noisy symbol."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from jaxtyping import Array, Float, Int

from ppl import sample
from stdlib.estimators import Enumerate


class Chain(eqx.Module):
    """The parameters of a chain with K states and S symbols, as logits.

    - `initial`: (K,), of the first state.
    - `transition`: (K, K), row k of the state after k.
    - `emission`: (K, S), row k of the symbol seen in state k.
    """

    initial: Float[Array, "K"]
    transition: Float[Array, "K K"]
    emission: Float[Array, "K S"]


def chain(key: Array, states: int = 3, symbols: int = 4) -> Chain:
    """A random chain whose states last and whose symbols tell them apart, somewhat.

    ```python
    >>> import jax
    >>> from stdlib.models import hidden_markov
    >>> hidden_markov.chain(jax.random.key(0)).emission.shape
    (3, 4)

    ```
    """
    keys = jax.random.split(key, 3)
    return Chain(
        jax.random.normal(keys[0], (states,)),
        jax.random.normal(keys[1], (states, states)) + 2 * jnp.eye(states),
        2 * jax.random.normal(keys[2], (states, symbols)),
    )


def model(chain: Chain, length: int) -> None:
    """Sites: `"state"` (length,) and `"symbol"` (length,), stacked by `lax.scan`.

    Source: Rabiner 1989, 'A tutorial on hidden Markov models'.

    ```python
    >>> import jax, ppl
    >>> from stdlib.models import hidden_markov
    >>> chain = hidden_markov.chain(jax.random.key(0))
    >>> draw = ppl.seed(lambda: ppl.simulate(hidden_markov.model, chain, 10))
    >>> draw(jax.random.key(1)).choices["symbol"].shape
    (10,)

    ```
    """

    def step(logits, _):
        state = sample("state", dist.Categorical(logits=logits))
        sample("symbol", dist.Categorical(logits=chain.emission[state]))
        return chain.transition[state], None

    lax.scan(step, chain.initial, None, length=length)


class Markov(eqx.Module):
    """The parameters of the guide: free logits for every step.

    - `initial`: (K,), of the first state.
    - `transition`: (T, K, K); row k of step t is of the state after state k at t (the last step's
      are not read).
    """

    initial: Float[Array, "K"]
    transition: Float[Array, "T K K"]


def guide(phi: Markov) -> None:
    """A Markov chain whose transitions differ by step, summed over exactly.

    The posterior given the symbols is such a chain, so the best ELBO is the log evidence.

    ```python
    >>> import jax, ppl
    >>> from functools import partial
    >>> from stdlib.models import hidden_markov as hmm
    >>> from stdlib.objectives import elbo
    >>> chain, symbols = hmm.chain(jax.random.key(0)), jax.numpy.array([0, 1, 2, 3, 3])
    >>> def objective(phi):
    ...     return elbo(partial(hmm.model, chain, 5), partial(hmm.guide, phi), {"symbol": symbols})
    >>> estimate = jax.jit(ppl.expectation(objective))
    >>> bound = estimate(jax.random.key(0), hmm.posterior(chain, symbols))
    >>> bool(abs(bound - hmm.log_evidence(chain, symbols)) < 1e-4)
    True

    ```
    """

    def step(logits, transition):
        state = sample("state", dist.Categorical(logits=logits), Enumerate())
        return transition[state], None

    lax.scan(step, phi.initial, phi.transition)


def initial(length: int, states: int = 3) -> Markov:
    """A start for the guide: every state is equally probable at every step.

    ```python
    >>> from stdlib.models import hidden_markov
    >>> hidden_markov.initial(5).transition.shape
    (5, 3, 3)

    ```
    """
    return Markov(jnp.zeros(states), jnp.zeros((length, states, states)))


def log_evidence(chain: Chain, symbols: Int[Array, "T"]) -> Float[Array, ""]:
    """log p(symbols), exactly, by the forward algorithm.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from stdlib.models import hidden_markov
    >>> chain = hidden_markov.chain(jax.random.key(0))
    >>> hidden_markov.log_evidence(chain, jnp.array([0, 1, 2])).shape
    ()

    ```
    """
    first, transition, emission = map(jax.nn.log_softmax, (*_logits(chain),))

    def step(forward, symbol):
        arriving = jax.nn.logsumexp(forward[:, None] + transition, axis=0)
        return arriving + emission[:, symbol], None

    forward, _ = lax.scan(step, first + emission[:, symbols[0]], symbols[1:])
    return jax.nn.logsumexp(forward)


def posterior(chain: Chain, symbols: Int[Array, "T"]) -> Markov:
    """The parameters at which `guide` is the exact posterior, by the backward algorithm.

    With b_t(k) = p(symbols after t | state k at t), the state after k at t has probability
    proportional to transition × emission × b_{t+1}.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from stdlib.models import hidden_markov
    >>> chain = hidden_markov.chain(jax.random.key(0))
    >>> hidden_markov.posterior(chain, jnp.array([0, 1, 2])).transition.shape
    (3, 3, 3)

    ```
    """
    first, transition, emission = map(jax.nn.log_softmax, (*_logits(chain),))

    def step(backward, symbol):
        logits = transition + emission[:, symbol] + backward
        return jax.nn.logsumexp(logits, axis=1), logits

    last = jnp.zeros_like(first)
    backward, logits = lax.scan(step, last, symbols[1:], reverse=True)
    return Markov(
        first + emission[:, symbols[0]] + backward,
        jnp.concatenate([logits, jnp.zeros((1, *transition.shape))]),
    )


def _logits(chain: Chain) -> tuple[Array, Array, Array]:
    return chain.initial, chain.transition, chain.emission


__all__ = ["Chain", "Markov", "chain", "guide", "initial", "log_evidence", "model", "posterior"]
