"""The names of the package kt-kernel that are here. Once this is imported, `import kt_kernel` finds it too, unless the
package itself was imported before: code written for that package runs after one line, `import ktransformers.kt_kernel`.
"""
import sys

from ktransformers.moe_wrapper import KTMoEWrapper, generate_gpu_experts_masks

__all__ = ["KTMoEWrapper", "generate_gpu_experts_masks"]

sys.modules.setdefault("kt_kernel", sys.modules[__name__])
