"""What the agents read and write, in Django's own administration."""

from __future__ import annotations

from django.contrib import admin

from ai_agents.models import AITask, ChatSession, DescriptionAnalysis, Feedback, ListingDraft

admin.site.register([AITask, ChatSession, DescriptionAnalysis, Feedback, ListingDraft])
