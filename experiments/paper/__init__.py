"""The paper's tables and figures for networks of one's own."""
