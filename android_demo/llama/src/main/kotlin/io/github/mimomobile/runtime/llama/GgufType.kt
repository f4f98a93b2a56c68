package io.github.mimomobile.runtime.llama

/**
 * How a tensor is stored: enum ggml_type.
 *
 * @property number ggml's.
 * @property block How many values a block has.
 * @property blockBytes And how many bytes.
 * @property computes Whether ggml can multiply with it, and llama-quantize writes it. NVFP4 needs scales in tensors of their
 *   own. Source: type_traits_cpu, https://github.com/ggml-org/llama.cpp/blob/0c1e57098/ggml/src/ggml-cpu/ggml-cpu.c
 */
internal enum class GgufType(val number: Int, val block: Int, val blockBytes: Int, val computes: Boolean = true) {
    F32(0, 1, 4), F16(1, 1, 2), Q4_0(2, 32, 18), Q4_1(3, 32, 20), Q5_0(6, 32, 22), Q5_1(7, 32, 24), Q8_0(8, 32, 34),
    Q8_1(9, 32, 36, false), Q2_K(10, 256, 84), Q3_K(11, 256, 110), Q4_K(12, 256, 144), Q5_K(13, 256, 176),
    Q6_K(14, 256, 210), Q8_K(15, 256, 292, false), IQ2_XXS(16, 256, 66), IQ2_XS(17, 256, 74), IQ3_XXS(18, 256, 98),
    IQ1_S(19, 256, 50), IQ4_NL(20, 32, 18), IQ3_S(21, 256, 110), IQ2_S(22, 256, 82), IQ4_XS(23, 256, 136),
    I8(24, 1, 1, false), I16(25, 1, 2, false), I32(26, 1, 4, false), I64(27, 1, 8, false), F64(28, 1, 8, false),
    IQ1_M(29, 256, 56), BF16(30, 1, 2), TQ1_0(34, 256, 54), TQ2_0(35, 256, 66), MXFP4(39, 32, 17),
    NVFP4(40, 64, 36, false), Q1_0(41, 128, 18), Q2_0(42, 64, 18);

    companion object {
        private val BY_NUMBER = entries.associateBy { it.number }

        fun of(number: Int): GgufType? = BY_NUMBER[number]
    }
}
