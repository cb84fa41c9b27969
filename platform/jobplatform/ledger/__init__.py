from jobplatform.extras import require

require("ledger")
