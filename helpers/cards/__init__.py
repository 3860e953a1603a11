"""Look up what a number is: formula, units, direction, source, interval, and the test that pins it.

The estimators' cards are in helpers/uncertainty; here are those of the metrics, of the probes and
their positions, of what stands beside a probe (baselines and tripwires), of what is said of one
question that was asked, and of the numbers by which runs are compared.
"""

from helpers.cards.metric_cards import METRIC_CARDS as METRIC_CARDS
from helpers.cards.record import MetricCard as MetricCard
from helpers.cards.record import WordCard as WordCard
from helpers.cards.text import describe_estimators as describe_estimators
from helpers.cards.text import every_name as every_name
from helpers.cards.text import explain as explain
from helpers.cards.word_cards import WORD_CARDS as WORD_CARDS
