import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.Result;

/** Runs some tests of a class: {@code RunTests CLASS METHOD…}. */
final class RunTests {
    public static void main(String[] arguments) throws Exception {
        var tests = Class.forName(arguments[0]);
        for (int index = 1; index < arguments.length; index++) {
            Result result = new JUnitCore().run(Request.method(tests, arguments[index]));
            result.getFailures().forEach(failure -> System.err.println(failure.getTrace()));
            if (result.getRunCount() != 1 || !result.wasSuccessful()) System.exit(1);
        }
        System.out.println("run: " + (arguments.length - 1));
    }
}
