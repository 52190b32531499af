"""A language model with what such a training usually has: bfloat16, scan, mesh, padding, EMA.

A decoder learns a grammar in which each verb agrees with its noun: "the cats that the dog sees
chase the fox". It trains on half of the sentences. After a minute on two cores nearly all that it
writes is grammatical.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

try:
    import flax.linen as nn
except ModuleNotFoundError:
    raise SystemExit('Flax is missing: pip install -e ".[examples]"') from None

from zsharp_jax import init_state, masked_ascent, sam_step, zsharp

LAYERS, WIDTH, HEADS = 3, 64, 4
BATCH, MICROBATCHES = 64, 2

NOUNS = ("cat", "dog", "fox", "cats", "dogs", "foxes")
VERBS = ("sees", "hears", "chases", "see", "hear", "chase")
WORDS = ("<pad>", ".", "the", "that", "small", "old", *NOUNS, *VERBS)
PAD, STOP = 0, 1
LENGTH = 12  # the full stop before a sentence, and its eleven words at most

# What is frozen is neither perturbed nor trained.
TRAINED = {"words": False, "places": False, "layers": True, "norm": True, "head": True}


def all_sentences():
    agreeing = [(n, v) for n in NOUNS for v in VERBS if n.endswith("s") != v.endswith("s")]
    clauses = ["", *(f" that the {noun} {verb}" for noun, verb in agreeing)]
    return [
        f"the{adjective} {noun}{clause} {verb} the {seen} ."
        for adjective in ("", " small", " old")
        for noun, verb in agreeing
        for clause in clauses
        for seen in NOUNS
    ]


def encoded(sentences):
    """Rows of numbers of words: a full stop, the sentence, and padding."""
    rows = np.full((len(sentences), LENGTH), PAD, np.int32)
    for row, sentence in zip(rows, sentences, strict=True):
        numbers = [STOP, *map(WORDS.index, sentence.split())]
        row[: len(numbers)] = numbers
    return rows


class Block(nn.Module):
    @nn.compact
    def __call__(self, tokens, mask):
        normed = nn.LayerNorm(dtype=jnp.bfloat16)(tokens)
        attention = nn.MultiHeadDotProductAttention(HEADS, use_bias=False, dtype=jnp.bfloat16)
        tokens = tokens + attention(normed, mask=mask)
        hidden = nn.Dense(4 * WIDTH, dtype=jnp.bfloat16)(nn.LayerNorm(dtype=jnp.bfloat16)(tokens))
        return tokens + nn.Dense(WIDTH, dtype=jnp.bfloat16)(nn.gelu(hidden)), None


class Decoder(nn.Module):
    """It computes in bfloat16; its parameters are float32, which is Flax's default."""

    @nn.compact
    def __call__(self, words):
        tokens = nn.Embed(len(WORDS), WIDTH, dtype=jnp.bfloat16, name="words")(words)
        places = nn.Embed(LENGTH, WIDTH, dtype=jnp.bfloat16, name="places")
        tokens = tokens + places(jnp.arange(words.shape[1])[None])
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType] as Flax documents it
            length=LAYERS,
        )
        tokens, _ = layers(name="layers")(tokens, nn.make_causal_mask(words))
        return nn.Dense(len(WORDS), name="head")(nn.LayerNorm(name="norm")(tokens))


model = Decoder()


def logits_of(params, rows):
    return jnp.asarray(model.apply({"params": params}, rows))


def summed_loss(params, rows):
    """The cross-entropy of each word after the first, all added up."""
    logits, targets = logits_of(params, rows[:, :-1]), rows[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses * (targets != PAD))


def loss_fn(params, rows, count):
    """The mean over the words of a batch that is taken in parts.

    The step takes the mean of what the parts give. A part with fewer words must weigh less in it,
    so each part divides by the count of the whole batch, an input that is not split.
    """
    return summed_loss(params, rows) * MICROBATCHES / count


@jax.jit
def write(params, key):
    """What the model writes: 64 rows, word by word."""

    def next_word(i, rows):
        logits = logits_of(params, rows)[:, i]
        return rows.at[:, i + 1].set(jax.random.categorical(jax.random.fold_in(key, i), logits))

    start = jnp.full((64, LENGTH), PAD).at[:, 0].set(STOP)
    return jax.lax.fori_loop(0, LENGTH - 1, next_word, start)


def decoded(row):
    sentence, stop, _ = " ".join(WORDS[number] for number in row[1:]).partition(" .")
    return sentence + stop


def stacked_layers(tree):
    """The scan stacks its layers along the first axis; each is a layer of its own to the filter."""
    return jax.tree_util.tree_map_with_path(lambda path, _: int(path[0].key == "layers"), tree)


@jax.jit
def moved(average, params):
    return optax.incremental_update(params, average, step_size=0.05)


def main(steps=200):
    sentences = np.random.default_rng(0).permutation(all_sentences())
    rows, test_rows = np.array_split(encoded(sentences), 2)

    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.jit(model.init)(jax.random.key(0), rows[:1])["params"]
    params = jax.device_put(params, whole)

    # All of this belongs to the optimizer, which gets the gradient at w + eps. In front of the
    # ascent it would get the gradient at w, of which eps is made, and leave the update as it is.
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, decay_steps=steps)
    descent = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))
    frozen = {name: not trained for name, trained in TRAINED.items()}
    optimizer = optax.selective_transform(descent, freeze_mask=frozen)
    ascent = masked_ascent(zsharp(rho=0.05, stacked=stacked_layers), TRAINED)

    # `jax.make_mesh` makes explicit axes, which few layers of Flax know: within the loss, XLA is to
    # lay out everything by itself.
    loss_on_mesh = jax.sharding.auto_axes(loss_fn, out_sharding=whole)
    state = init_state(params, optimizer, ascent)
    step = sam_step(loss_on_mesh, optimizer, ascent, microbatches=MICROBATCHES, batch_argnums=1)

    # Each step takes over the memory of the state, so the average needs memory of its own.
    average = jax.tree.map(jnp.copy, state.params)
    random = np.random.default_rng(1)
    for i in range(steps):
        batch = random.choice(rows, BATCH)
        count = np.float32((batch[:, 1:] != PAD).sum())
        state, info = step(state, jax.device_put(batch, split), jax.device_put(count, whole))
        average = moved(average, state.params)
        if i % 50 == 0 or i == steps - 1:
            print(f"step {i}: loss {info.loss:.3f}, ||eps|| {info.perturbation_norm:.4f}")

    average = jax.device_get(average)
    test_loss = float(jax.jit(summed_loss)(average, test_rows)) / (test_rows[:, 1:] != PAD).sum()
    words_each = (encoded(sentences)[:, 1:] != PAD).sum(axis=1).mean()
    least = np.log(len(sentences)) / words_each  # each sentence is equally likely
    written = [decoded(row) for row in np.asarray(write(average, jax.random.key(1)))]
    grammatical = np.isin(written, sentences).mean()
    print(f"loss on other sentences {test_loss:.3f}; the least on average is {least:.3f}")
    print(f"{grammatical:.0%} of what it writes is grammatical:", *written[:4], sep="\n  ")
    return float(test_loss - least), float(grammatical)


if __name__ == "__main__":
    main()
