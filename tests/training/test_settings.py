"""Settings of a training run: what a user set wins over a generator's recipe."""

from dataclasses import replace

from cohortloom.generators import create
from cohortloom.training import Training


def test_what_is_set_wins_over_the_recipe_and_nothing_else_does():
    recipe = Training(steps=500, learning_rate=8e-3, betas=(0.0, 0.9), ema=0.995)
    asked = Training(weight_decay=0.2, betas=(0.5, 0.9), checkpoint_seconds=1.0)
    found = asked.over(recipe)
    assert found == Training(steps=500, learning_rate=8e-3, betas=(0.5, 0.9), ema=0.995, weight_decay=0.2)
    assert found.checkpoint_seconds == 1.0  # no part of the comparison
    assert Training().over(recipe) == recipe


def test_steps_and_epochs_replace_each_other():
    assert Training(epochs=3).over(Training(steps=500)) == Training(epochs=3)
    assert Training(steps=7).over(Training(epochs=100.0)) == Training(steps=7)


def test_settings_in_part_leave_the_others_as_the_generator_has_them():
    recipe = create("signal-diffusion").training
    assert recipe != Training()
    made = create("signal-diffusion", training={"steps": 7, "batch_size": 16}).training
    assert made == replace(recipe, steps=7, batch_size=16)
    assert create("signal-diffusion", training={"epochs": 3}).training == replace(recipe, steps=None, epochs=3)
    assert create("timegan", training={"steps": 7}).training == Training(steps=7)
