from small_models import models as models
