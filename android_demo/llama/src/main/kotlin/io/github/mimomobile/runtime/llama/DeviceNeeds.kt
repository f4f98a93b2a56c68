package io.github.mimomobile.runtime.llama

/**
 * What llama.cpp's libraries for Android need of an ARM device, and what of models. Without the first the linker would refuse
 * them, or SIGILL end the app, so it is looked at before: `tests/android` shows both of the libraries that the APK has.
 */
internal object DeviceNeeds {
    /** Android 11's libc has the unwinder that the libraries were linked to. */
    private const val FIRST_API_LEVEL = 30

    /** Of getauxval, the bits that tell what a CPU can do. */
    const val AT_HWCAP: Long = 16

    // https://github.com/torvalds/linux/blob/v6.12/arch/arm64/include/uapi/asm/hwcap.h
    private const val HWCAP_ATOMICS = 1L shl 8
    private const val HWCAP_LRCPC = 1L shl 15

    /** What is missing on a device with that API level and those bits; null when all is there. */
    fun missing(apiLevel: Int, hwcap: Long): String? = when {
        apiLevel < FIRST_API_LEVEL ->
            "llama.cpp needs Android 11 (API level $FIRST_API_LEVEL), this is API level $apiLevel; use an ONNX model"
        hwcap and HWCAP_ATOMICS == 0L || hwcap and HWCAP_LRCPC == 0L ->
            "llama.cpp needs a CPU of Cortex-A55's generation or newer (atomics, lrcpc); use an ONNX model"
        else -> null
    }

    /**
     * Why llama.cpp's build for Android would compute [model] wrongly; null when it does not. It leaves the biases of queries,
     * keys and values out of trunks in files of this architecture, without a word.
     */
    fun miscomputed(model: GgufModel): String? =
        if (model.architecture != GgufRules.MTP || !model.hasTrunk) null else
            "trunk and MTP layer in one file are not for Android; make two files, without --single-file"
}
