from jobplatform.extras import require

require("dispatcher")
