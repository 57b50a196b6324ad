"""The paper's tables and figures, for networks that you trained."""
