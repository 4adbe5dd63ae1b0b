"""communique tells what a diplomatic statement does.

>>> import communique
>>> classifier = communique.load()
>>> classifier("Moscow is ready for a ceasefire tomorrow if Kyiv withdraws.").intents
('proposal', 'condition')
"""

from communique.classifier import Classifier, Statement, load
from communique.errors import CommuniqueError

__version__ = "0.2.0"
__all__ = ["Classifier", "CommuniqueError", "Statement", "__version__", "load"]
