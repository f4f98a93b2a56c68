package androidx.test.internal.platform.util

object TestOutputEmitter {
    @JvmStatic
    fun dumpThreadStates(@Suppress("UNUSED_PARAMETER") outputFileName: String) = Unit
}
