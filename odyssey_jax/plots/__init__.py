"""Pictures of schedules, histories and runs, by matplotlib and as text."""

from odyssey_jax.plots._figure import new_figure as new_figure
from odyssey_jax.plots._figure import save_picture as save_picture
from odyssey_jax.plots._pictures import plot_history as plot_history
from odyssey_jax.plots._pictures import save_confusion as save_confusion
from odyssey_jax.plots._pictures import save_curves as save_curves
from odyssey_jax.plots._plot import plot as plot
from odyssey_jax.plots._plot_runs import plot_runs as plot_runs
from odyssey_jax.plots._plot_text import plot_text as plot_text
