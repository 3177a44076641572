import os

import dj_database_url

SECRET_KEY = "no secret"
USE_TZ = "WITHOUT_ZONES" not in os.environ
# As django_celery_beat asks of such a project.
DJANGO_CELERY_BEAT_TZ_AWARE = USE_TZ
TIME_ZONE = "UTC"
DATABASES = {"default": dj_database_url.parse(os.environ["DATABASE_URL"])}
INSTALLED_APPS = os.environ.get("APPS", "django_celery_beat").split()
CELERY_TIMEZONE = os.environ.get("ZONE", "America/Guayaquil")
CELERY_BROKER_URL = "memory://"
