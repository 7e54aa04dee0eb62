/** The module worker that `load` starts in browsers. */

import { serve } from "./serve.js";

serve();
