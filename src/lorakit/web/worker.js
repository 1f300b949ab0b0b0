/** The worker of `open`: transformers.js is the one beside this file, or at the address given. */

import { serve } from './serve.js';

serve(globalThis);
