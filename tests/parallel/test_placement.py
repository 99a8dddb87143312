"""Where leaves lie: the rules, what mirrors a parameter, and what is refused."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import odyssey_jax as ody
from odyssey_jax.parallel import OneDevice, placement_for, placement_of

P = PartitionSpec
AUTO = (AxisType.Auto,) * 2
PARAMS = {
    "encoder": {"kernel": jnp.zeros((16, 24)), "bias": jnp.zeros(24)},
    "decoder": {"kernel": jnp.zeros((24, 16)), "scale": jnp.zeros(7)},
}


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("data", "model"), axis_types=AUTO)


def specs(placement, params=PARAMS, opt_state=(), model_state=None):
    state = ody.TrainState(params, model_state, opt_state)
    placed = placement.of(dict, lambda: (params, model_state)).place(state, state)
    return jax.tree.map(lambda x: x.sharding.spec, placed)


def test_the_largest_axis_that_divides_is_cut_and_small_leaves_lie_whole():
    found = specs(ody.fully_sharded(min_size=24)).params
    assert found == {
        "encoder": {"kernel": P(None, "data"), "bias": P("data")},
        "decoder": {"kernel": P("data"), "scale": P()},  # 7 can't be cut into 8
    }
    assert specs(ody.fully_sharded(min_size=25)).params["encoder"]["bias"] == P()


@pytest.mark.parametrize("min_size", [2**14, 1])
def test_that_nothing_is_cut_is_said(min_size):
    params = {"w": jnp.zeros((7, 9))}
    match = f"cuts nothing .* has 63 elements, min_size is {min_size:,}, .* that 8 divides"
    with pytest.warns(RuntimeWarning, match=match):
        assert specs(ody.fully_sharded(min_size=min_size), params).params == {"w": P()}
    specs(ody.fully_sharded(jax.make_mesh((1,), ("data",))), params)  # there is one device


def test_rules_go_first_and_what_they_leave_free_is_cut_too(mesh):
    rules = {"encoder/kernel$": P(None, "model"), "kernel$": P("model")}
    found = specs(ody.sharded(mesh, rules, batch=P("data"))).params
    assert found["encoder"] == {"kernel": P(None, "model"), "bias": P()}
    assert found["decoder"]["kernel"] == P("model")
    both = ody.fully_sharded(mesh, rules=rules, batch=P("data"), min_size=30)
    assert specs(both).params["encoder"] == {"kernel": P("data", "model"), "bias": P()}
    # What a rule cuts along the axis already is not cut along it once more.
    along = ody.fully_sharded(rules={"encoder/kernel$": P("data")}, min_size=30)
    assert specs(along).params["encoder"]["kernel"] == P("data")


def test_what_mirrors_a_parameter_lies_as_it_does():
    parts = {"encoder": optax.adam(1.0), "decoder": optax.sgd(1.0, momentum=0.9)}
    opt_state = {name: each.init(PARAMS[name]) for name, each in parts.items()}
    found = specs(ody.fully_sharded(min_size=1), opt_state=opt_state)
    adam, sgd = found.opt_state["encoder"][0], found.opt_state["decoder"][0]
    assert (adam.mu, adam.nu, adam.count) == (found.params["encoder"],) * 2 + (P(),)
    assert sgd.trace == found.params["decoder"]
    # Of two of one name and shape it is the one whose keys are all on the way.
    twins = {"a": {"kernel": jnp.zeros((8, 8))}, "b": {"kernel": jnp.zeros((8, 8))}}
    placement = ody.sharded(jax.make_mesh((8,), ("m",)), {"b/": P("m")}, batch=P())
    moments = optax.adam(1.0).init(twins)[0].mu
    found = specs(placement, twins, moments).opt_state
    assert (found["a"]["kernel"], found["b"]["kernel"]) == (P(), P("m"))
    # Of two that are both on the way it is the longer one.
    nested = {"a": {"kernel": jnp.zeros((8, 8))}, "b": {"a": {"kernel": jnp.zeros((8, 8))}}}
    rules = {"^a/": P("m"), "^b/a/": P(None, "m")}
    placement = ody.sharded(jax.make_mesh((8,), ("m",)), rules, batch=P())
    found = specs(placement, nested, optax.adam(1.0).init(nested))
    assert found.params == {"a": {"kernel": P("m")}, "b": {"a": {"kernel": P(None, "m")}}}
    assert found.opt_state[0].mu == found.params
    placement = ody.sharded(jax.make_mesh((8,), ("m",)), {"^a/": P("m")}, batch=P())
    found = specs(placement, nested, optax.adam(1.0).init(nested))
    assert found.params == {"a": {"kernel": P("m")}, "b": {"a": {"kernel": P()}}}
    assert found.opt_state[0].mu == found.params


def test_keys_with_slashes_of_their_own_are_found_and_mirrored():
    params = {"mlp/~/linear_0": {"w": jnp.zeros((8, 8)), "b": jnp.zeros(8)}}
    placement = ody.sharded(jax.make_mesh((8,), ("m",)), {"linear_0/w$": P("m")}, batch=P())
    found = specs(placement, params, optax.adam(1.0).init(params))
    assert found.params["mlp/~/linear_0"] == {"w": P("m"), "b": P()}
    assert found.opt_state[0].mu == found.params


def test_what_is_not_trained_goes_by_the_rules_too():
    frozen = ody.train.ModelState({"mean": jnp.zeros(8)}, {"base": jnp.zeros((8, 8), jnp.int8)})
    placement = ody.sharded(jax.make_mesh((8,), ("m",)), {"^base$": P("m")}, batch=P())
    assert specs(placement, model_state=frozen).model_state == ({"mean": P()}, {"base": P("m")})


def test_annotations_are_taken_to_the_axes_of_the_mesh(mesh):
    names = {"kernel": ("embed", "mlp"), "square": ("mlp", "mlp"), "direct": (None, "model")}
    params = {name: jnp.zeros((8, 8)) for name in names}
    spec_of = lambda axes: (
        specs(
            ody.sharded(mesh, annotations=axes, batch=P("data")).of(lambda: names, None), params
        ).params
    )
    of_the_task = ody.sharded(mesh, annotations={"embed": None, "mlp": "model"}, batch=P("data"))
    state = ody.TrainState(params)
    placed = of_the_task.of(lambda: names, None).place(state, state)
    found = {name: x.sharding.spec for name, x in placed.params.items()}
    # An axis of the mesh is used once: the first name wins.
    assert found == {"kernel": P(None, "model"), "square": P("model"), "direct": P(None, "model")}
    with pytest.raises(ValueError, match="axis annotated 'embed', which is no axis of the mesh"):
        ody.sharded(mesh, batch=P("data")).of(lambda: names, None).place(state, state)
    with pytest.raises(ValueError, match="have no annotations to place them by"):
        spec_of({})


def test_the_arrays_may_stay_where_they_are(mesh):
    given = jax.device_put(PARAMS["encoder"]["kernel"], jax.NamedSharding(mesh, P("model", "data")))
    placement = ody.parallel.as_given(mesh, batch=P("data"))
    assert specs(placement, {"w": given}).params == {"w": P("model", "data")}
    state = ody.TrainState({"w": given})
    assert placement_of(state).place(state, state).params["w"].sharding == given.sharding
    assert placement_of(ody.TrainState(PARAMS)) == OneDevice()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: ody.data_parallel(7), TypeError, "mesh must be a jax.sharding.Mesh.*got int"),
        (lambda m: ody.data_parallel(m), ValueError, r"batch must say .* \('data', 'model'\)"),
        (lambda m: ody.data_parallel(m, batch="data"), TypeError, "batch must be a .*got 'data'"),
        (lambda m: ody.data_parallel(m, batch=P("x")), ValueError, "batch names 'x', which is no"),
        (lambda m: ody.data_parallel(m, batch=P("data", "model")), ValueError, "cuts 2 axes"),
        (lambda m: ody.fully_sharded(min_size=-1), ValueError, "min_size must be .*got -1"),
        (lambda m: ody.fully_sharded(m, batch=P()), ValueError, "axis must name an axis of the"),
        (lambda m: ody.sharded(m, {"(": P()}, batch=P()), ValueError, r"'\(' is no regular"),
        (
            lambda m: ody.sharded(m, ["w"], batch=P()),
            TypeError,
            "rules must be a mapping",
        ),
        (lambda m: ody.sharded(m, {"w": P("x")}, batch=P()), ValueError, r"rules\['w'\] names 'x'"),
        (
            lambda m: ody.sharded(m, {}, annotations={}, batch=P()),
            ValueError,
            "rules and annotations are two ways",
        ),
        (
            lambda m: specs(ody.sharded(m, {"kern$": P("data")}, batch=P())),
            ValueError,
            "'kern.' is found in no parameter's path: ",
        ),
        (
            lambda m: specs(ody.sharded(m, {"scale": P("data")}, batch=P())),
            ValueError,
            r"'decoder/scale' of shape \[7\] can't be cut as .*'data'",
        ),
        (lambda m: ody.data_parallel().check(12), ValueError, "multiple of 8"),
        (
            lambda m: specs(ody.parallel.as_given(m, batch=P())),
            ValueError,
            "none of the arrays lies on one: put them there",
        ),
    ],
)
def test_what_cannot_be_is_refused(mesh, make, error, message):
    with pytest.raises(error, match=message):
        make(mesh)


def test_without_a_placement_all_devices_are_used_or_it_is_said(monkeypatch):
    assert placement_for(lambda parts: True) == (OneDevice(), None)  # as the suite's default says
    with jax.default_device(None):
        assert placement_for(lambda parts: parts == 8) == (ody.data_parallel(), None)
        placement, idle = placement_for(lambda parts: False)
    assert placement == OneDevice()
    assert "7 more device(s) idle, since the batches can't be cut into 8" in idle


def test_the_mesh_that_is_set_is_taken(mesh):
    with jax.set_mesh(mesh):
        assert ody.data_parallel(batch=P("data")).mesh == mesh
    assert ody.data_parallel().mesh.shape == {"data": 8}
