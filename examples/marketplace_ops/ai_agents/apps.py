"""The app's name for Django."""

from __future__ import annotations

from django.apps import AppConfig


class AiAgentsConfig(AppConfig):
    """Agents that read and write texts."""

    name = "ai_agents"
