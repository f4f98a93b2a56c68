package io.github.mimomobile.runtime.llama

import io.github.mimomobile.runtime.MimoException
import io.github.mimomobile.runtime.files.sha256
import java.io.File
import java.io.IOException
import java.io.InputStream
import java.security.DigestInputStream
import java.security.MessageDigest

/**
 * The code that llama.cpp runs on Qualcomm's NPU, libggml-htp-v….so, as files. Android maps an app's own libraries from the
 * APK, but the NPU's loader, which is outside of the app, opens files by the folders that ADSP_LIBRARY_PATH names.
 *
 * @param root A folder of the app; they are put into one in it.
 * @param resource What the app holds at a path; null for nothing. An app's class loader reads its APKs.
 * @param path The variable, which may have been set for another library of Qualcomm's.
 * @param setPath Sets it.
 */
internal class HexagonFiles(
    root: File,
    private val resource: (String) -> InputStream? = { HexagonFiles::class.java.classLoader?.getResourceAsStream(it) },
    private val path: () -> String? = { LlamaLibrary.environment(PATH) },
    private val setPath: (String) -> Unit = { LlamaLibrary.setEnvironment(PATH, it, replaces = true) },
) {
    private val folder = File(root, "hexagon")

    /**
     * Puts the files there, unless they are there already, and names the folder to the loader.
     *
     * @throws MimoException.ProviderUnavailable The app does not hold them, or they cannot be written.
     */
    fun prepare() {
        val found = VERSIONS.map { "libggml-htp-v$it.so" }.filter { name ->
            resource("lib/arm64-v8a/$name")?.use { copy(it, name) } != null
        }
        if (found.isEmpty()) throw MimoException.ProviderUnavailable("libggml-htp-v….so is not in this app")
        val others = path()?.takeIf { it.isNotEmpty() }?.split(";") ?: SYSTEM
        setPath((listOf(folder.path) + others).distinct().joinToString(";"))
    }

    /** A file that is there is read and compared, too: nothing else runs on the NPU than what the app was signed with. */
    private fun copy(input: InputStream, name: String) {
        val target = File(folder, name)
        val partial = File(folder, "$name.partial")
        try {
            folder.mkdirs()
            val digest = MessageDigest.getInstance("SHA-256")
            DigestInputStream(input, digest).use { source -> partial.outputStream().use { source.copyTo(it) } }
            val expected = digest.digest().joinToString("") { "%02x".format(it) }
            if (target.isFile && sha256(target) == expected) return
            if (sha256(partial) != expected) throw IOException("$partial was not written as it was read")
            if (!partial.renameTo(target)) throw IOException("$target cannot be replaced")
        } catch (error: IOException) {
            throw MimoException.ProviderUnavailable("$target: cannot be written (${error.message})", error)
        } finally {
            partial.delete()
        }
    }

    private companion object {
        const val PATH = "ADSP_LIBRARY_PATH"

        /** Of the NPUs that llama.cpp has code for: Snapdragon 8 Gen 2, 8 Gen 3, 8 Elite and 8 Elite Gen 5. */
        val VERSIONS = listOf(73, 75, 79, 81)

        /** Where phones keep what the NPU needs beside it; the variable replaces the loader's own list. */
        val SYSTEM = listOf("/vendor/dsp/cdsp", "/vendor/lib/rfsa/adsp", "/system/lib/rfsa/adsp", "/dsp")
    }
}
