"""merge: a base and adapters become a checkpoint of the same form, streamed tensor by tensor."""

from lorakit.merge.folder import companions as companions
from lorakit.merge.merge import MergeReport as MergeReport
from lorakit.merge.merge import merge as merge
from lorakit.merge.merge import unmerge as unmerge
