package io.github.mimomobile.runtime.llama

import com.sun.jna.NativeLibrary

/**
 * llama.cpp's CPU code for this CPU. Android builds have a library for each generation of CPUs, each of which tells how well
 * it fits; they lie in the APK, where no folder can be listed, so that they are known by name.
 */
internal object CpuVariants {
    /** As llama.cpp's build for Android names them, and the one of CPUs without generations. */
    val NAMES: List<String> = listOf(
        "android_armv9.2_2", "android_armv9.2_1", "android_armv9.0_1", "android_armv8.6_1", "android_armv8.2_2",
        "android_armv8.2_1", "android_armv8.0_1",
    ).map { "ggml-cpu-$it" } + "ggml-cpu"

    /**
     * Loads the best, unless CPU code is linked in.
     *
     * @throws UnsatisfiedLinkError There is none for this CPU.
     */
    fun load(api: LlamaApi) {
        if (api.ggml_backend_dev_count() > 0) return
        val best = best(NAMES, ::score) ?: throw UnsatisfiedLinkError("libggml-cpu-….so: none is for this CPU")
        api.ggml_backend_load(System.mapLibraryName(best)) ?: throw UnsatisfiedLinkError("lib$best.so cannot be loaded")
    }

    /** The one of [names] with the highest score; null when none fits. */
    fun best(names: List<String>, score: (String) -> Int?): String? =
        names.map { it to (score(it) ?: 0) }.filter { it.second > 0 }.maxByOrNull { it.second }?.first

    /** How well a library fits this CPU, 0 for not at all; null when it is not there. A lone variant may not tell. */
    private fun score(name: String): Int? {
        val library = try {
            NativeLibrary.getInstance(name)
        } catch (_: UnsatisfiedLinkError) {
            return null
        }
        return try {
            library.getFunction("ggml_backend_score").invokeInt(emptyArray<Any>())
        } catch (_: UnsatisfiedLinkError) {
            1
        }
    }
}
