from __future__ import annotations

from bench.report.convergence import against, epochs_until, of_arm


def run(curve, seconds=100.0, device="gpu", teacher=None):
    return {
        "history": {"test_accuracy": curve},
        **{"epochs": len(curve), "seconds": seconds, "hardware": {"device": device}, "world_size": 1},
        "teacher": teacher,
    }


def test_the_first_epoch_that_is_good_enough():
    assert epochs_until([10.0, 50.0, 40.0, 60.0], 45.0) == 2
    assert epochs_until([10.0, 50.0], 50.0) == 2
    assert epochs_until([10.0], 10.1) is None


def test_sooner_is_seed_by_seed_and_says_how_many_get_there():
    baseline = {0: run([10.0, 20.0, 30.0, 40.0]), 1: run([10.0, 20.0, 30.0, 50.0]), 7: run([1.0])}
    teacher = {"seconds": 50.0}
    guided = {
        0: run([30.0, 40.0, 60.0, 60.0], 200.0, teacher=teacher),
        1: run([30.0, 40.0, 45.0, 49.0], 200.0, teacher=teacher),
    }
    found = against(guided, baseline)
    assert (found["reached"], found["pairs"]) == (1, 2)
    assert found["epochs"].values == {0: 2} and found["speedup_epochs"].values == {0: 2.0}
    assert found["speedup_time"].values == {0: 1.0}  # 100 s against 2 of 4 epochs of 200 s
    assert found["speedup_time_with_teacher"].values == {0: 100 / 150}


def test_no_wall_time_is_compared_across_machines():
    found = against({0: run([50.0, 60.0], device="H200")}, {0: run([40.0, 50.0], device="A100")})
    assert found["epochs"].values == {0: 1} and found["speedup_time"] is None


def test_area_and_parts_of_the_own_final_accuracy():
    progress = of_arm({0: run([20.0, 40.0, 72.0, 80.0]), 3: run([80.0, 80.0])})
    assert progress["area"].values == {0: 53.0, 3: 80.0}
    assert {part: spread.values for part, spread in progress["epochs_to"].items()} == {
        "50": {0: 2, 3: 1},
        "90": {0: 3, 3: 1},
        "95": {0: 4, 3: 1},
    }
