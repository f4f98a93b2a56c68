package io.github.mimomobile.runtime.devices

/**
 * Sets a variable of this process's environment on Android, where native libraries look for some when they are loaded.
 *
 * On a computer whoever starts the JVM has to set it; Android's classes may be there, too, as Gradle shows them to unit
 * tests, but their methods throw.
 */
internal fun setOnAndroid(name: String, value: String) {
    // So the virtual machine tells ONNX Runtime, too.
    if (System.getProperty("java.vendor") != "The Android Project") return
    val os = Class.forName("android.system.Os")
    os.getMethod("setenv", String::class.java, String::class.java, Boolean::class.java).invoke(null, name, value, true)
}
