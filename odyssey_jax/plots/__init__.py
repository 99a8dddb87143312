"""Pictures of schedules, histories and runs, by matplotlib and as text."""

from odyssey_jax.plots._confusion import save_confusion as save_confusion
from odyssey_jax.plots._curves import plot_history as plot_history
from odyssey_jax.plots._curves import plot_runs as plot_runs
from odyssey_jax.plots._curves import save_curves as save_curves
from odyssey_jax.plots._schedules import plot as plot
from odyssey_jax.plots._schedules import plot_text as plot_text
from odyssey_jax.plots._style import new_axes as new_axes
from odyssey_jax.plots._style import save_picture as save_picture
