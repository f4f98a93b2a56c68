package io.github.mimomobile.runtime.llama

import android.os.Build
import com.sun.jna.Function
import com.sun.jna.Library
import com.sun.jna.Memory
import com.sun.jna.Native
import com.sun.jna.NativeLibrary
import com.sun.jna.Platform
import com.sun.jna.Pointer

/**
 * llama.cpp in this process, loaded once. On Android libllama.so comes from the APK; on a computer from the folder that
 * `jna.library.path` names.
 *
 * @throws LinkageError It is not there, or not for this device; thrown by what is read first.
 */
internal object LlamaLibrary {
    /** Its functions, ready to be called. */
    val api: LlamaApi by lazy { load() }

    /** What it says. */
    val log: LlamaLog = LlamaLog()

    /** C's own library. */
    private val c: NativeLibrary by lazy { NativeLibrary.getInstance("c") }

    /** C's strlen, which is asked by [Flag]. */
    val strlen: Function by lazy { c.getFunction("strlen") }

    /** Sets a variable of the environment for native code; what is set already stays unless it [replaces]. */
    fun setEnvironment(name: String, value: String, replaces: Boolean = false) {
        val status = c.getFunction("setenv").invokeInt(arrayOf<Any>(name, value, if (replaces) 1 else 0))
        check(status == 0) { "setenv $name: status $status" }
    }

    /** A variable of the environment as native code sees it. */
    fun environment(name: String): String? =
        c.getFunction("getenv").invokePointer(arrayOf<Any>(name))?.getString(0, "UTF-8")

    private fun load(): LlamaApi {
        if (Native.SIZE_T_SIZE != Long.SIZE_BYTES) throw UnsatisfiedLinkError("a device with 64 bits is needed")
        if (Platform.isAndroid() && Platform.isARM()) {
            val hwcap = c.getFunction("getauxval").invokeLong(arrayOf<Any>(DeviceNeeds.AT_HWCAP))
            DeviceNeeds.missing(Build.VERSION.SDK_INT, hwcap)?.let { throw UnsatisfiedLinkError(it) }
        }
        setEnvironment("GGML_NO_BACKTRACE", "1") // else a debugger is started when it aborts
        val made = Native.load("llama", LlamaApi::class.java, mapOf(Library.OPTION_STRING_ENCODING to "UTF-8"))
        made.llama_log_set(log.listener, null)
        CpuVariants.load(made)
        made.llama_backend_init()
        return made
    }
}

/**
 * A flag that any thread can raise to end the computations that look at it.
 *
 * llama.cpp's threads ask a callback before each operation. Java's code would have to attach them, so C's strlen is that
 * callback: of "" it is 0, which is false, and of "\x01" it is 1, which is true. JNA keeps the eight bytes on a boundary of
 * eight, as libraries read strings by the word.
 */
internal class Flag {
    private val text = Memory(Long.SIZE_BYTES.toLong()).apply { clear() }

    /** Raises the flag when [up], else lowers it. */
    fun set(up: Boolean) = text.setByte(0, up.c)

    /** Lets contexts that are made with [params] look at the flag; it must live as long as they do. */
    fun watch(params: LlamaContextParams) {
        params.abort_callback = Pointer(Pointer.nativeValue(LlamaLibrary.strlen))
        params.abort_callback_data = text
    }
}
