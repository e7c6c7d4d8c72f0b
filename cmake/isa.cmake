# The only place that names instruction-set compiler flags. One entry per ISA; kernel sources ending in
# _<isa>.cc are compiled with the flags of that entry.
set(KT_ISAS avx2 avx512 avx512bf16 amx)
set(KT_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c -mbmi2)
set(KT_ISA_FLAGS_avx512 ${KT_ISA_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)
set(KT_ISA_FLAGS_avx512bf16 ${KT_ISA_FLAGS_avx512} -mavx512bf16)
set(KT_ISA_FLAGS_amx ${KT_ISA_FLAGS_avx512} -mavx512fp16 -mamx-tile -mamx-int8 -mamx-bf16)
